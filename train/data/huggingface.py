"""Hugging Face's `tokenizer.json`, through the `tokenizers` library."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from model.errors import UserError
from train.data import config
from train.data.tokenizers import Tokenizer, split_after_newline
from train.files import replace_file

# The library keeps every token's text and place while it encodes; long texts are encoded in parts.
PART = 1 << 22


class HuggingFaceTokenizer(Tokenizer):
    """A `tokenizer.json`; special tokens are neither added when encoding nor shown when decoding."""

    FILE = "tokenizer.json"

    def __init__(self, option: config.HuggingFace, content: bytes, where: str) -> None:
        try:
            import tokenizers
        except ImportError:
            raise UserError("a tokenizer.json needs the library tokenizers: pip install tokenizers") from None
        self.option = option
        self._content = content
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises a plain Exception for any damage
            raise UserError(f"{where} is no tokenizer.json, or a damaged one: {error}") from None
        # A special token's name in a text is text: encoding it as the token would let any document end itself.
        self._tokenizer.encode_special_tokens = True
        # Ids need not be dense: the vocabulary must hold the largest that a text can have.
        special = {token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special}
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        size = option.vocab_size
        if size is not None:
            vocabulary = {token: i for token, i in vocabulary.items() if i < size or token not in special}
        used = max(vocabulary.values()) + 1
        if size is not None and size < used:
            raise UserError(f"{where} has ids up to {used - 1}, more than data.tokenizer.vocab_size={size} holds")
        self.vocab_size = size or used
        self.end_of_document = self._id(option.end_of_document, "end_of_document", where)
        self._begin = self._id(option.begin_of_document, "begin_of_document", where)

    def _id(self, token: str | None, field: str, where: str) -> int | None:
        if token is None:
            return None
        found: int | None = self._tokenizer.token_to_id(token)
        if found is None:
            raise UserError(f"{where} has no token {token!r}: give data.tokenizer.{field} one")
        return found

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32 [tokens]."""
        encodings = (self._tokenizer.encode(part, add_special_tokens=False) for part in split_after_newline(text, PART))
        parts = [np.array(encoding.ids, np.int32) for encoding in encodings]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids, without the end of document."""
        return self._tokenizer.decode(self.checked(ids), skip_special_tokens=True)

    def save(self, folder: pathlib.Path) -> str:
        """Writes the file that `load` reads and returns its name."""
        replace_file(folder / self.FILE, self._content)
        return self.FILE

    @classmethod
    def load(cls, option: config.Tokenizer, path: pathlib.Path | None) -> HuggingFaceTokenizer:
        """The tokenizer of an option and a saved file; raises UserError when that is damaged."""
        assert isinstance(option, config.HuggingFace)
        assert path is not None
        return cls(option, path.read_bytes(), str(path))
