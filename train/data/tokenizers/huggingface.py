"""Hugging Face's `tokenizer.json`, through the `tokenizers` library."""

from __future__ import annotations

import functools
import json
import operator
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from model.errors import UserError
from train.data import config
from train.data.tokenizers.cutting import cut
from train.data.tokenizers.decoders import (
    BYTE_OF_CHARACTER,
    ByteFallbackStage,
    ByteLevelStage,
    TokenDecoder,
    byte_level_bytes,
    byte_of_name,
    make_stages,
)
from train.data.tokenizers.huggingface_cuts import SafeCuts, flatten_sequence, safe_cuts
from train.data.tokenizers.interface import Tokenizer
from train.data.tokenizers.streaming import AtEndDecoder, IncrementalDecoder
from train.files.files import replace_file

if TYPE_CHECKING:
    import tokenizers

# The library takes about 150 to 250 bytes of memory per token; a longer text is cut where possible.
MAX_PART_CHARACTERS = 1 << 20


def read_tokenizer(content: bytes, where: str) -> tuple[tokenizers.Tokenizer, tuple[str, ...]]:
    """The library's tokenizer of a tokenizer.json, and a few words on each setting that is switched off here.

    These settings (truncation, padding, dropout) serve the batches of one training, and change the ids of a text.
    Raises UserError when the file is damaged or the library is not installed.
    """
    try:
        import tokenizers
    except ImportError:
        raise UserError("a tokenizer.json needs the library tokenizers: pip install tokenizers") from None
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises a plain Exception for any damage
        raise UserError(f"{where} is not a tokenizer.json, or is damaged: {error}; get it again") from None
    disabled = []
    if tokenizer.truncation is not None:
        disabled.append(f"truncation to {tokenizer.truncation['max_length']} tokens")
        tokenizer.no_truncation()
    if tokenizer.padding is not None:
        disabled.append(f"padding on the {tokenizer.padding['direction']}")
        tokenizer.no_padding()
    if dropout := getattr(tokenizer.model, "dropout", None):
        disabled.append(f"a dropout of {dropout:g} of the merges")
        tokenizer.model.dropout = None
    # A special token's name in a text is text: encoding it as the token would let any document end itself.
    tokenizer.encode_special_tokens = True
    return tokenizer, tuple(disabled)


class HuggingFaceTokenizer(Tokenizer):
    """A `tokenizer.json`; special tokens are neither added when encoding nor shown when decoding."""

    FILE = "tokenizer.json"

    def __init__(self, option: config.HuggingFace, content: bytes, where: str) -> None:
        self.option = option
        self._content = content
        self._tokenizer, self.disabled_settings = read_tokenizer(content, where)
        self._tokenizer.post_processor = None  # it takes spaces out of the characters of tokens, and changes no id
        # Ids may have gaps: the vocabulary must hold the largest id that a text can have.
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._special = special = {token.content for token in added if token.special}
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
            raise UserError(f"{where} has no token {token!r}: set data.tokenizer.{field} to one of its tokens")
        return found

    def token_id(self, token: str) -> int | None:
        """The id of a token by its text, special tokens included; None if there is no such token."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def encode(self, text: str) -> np.ndarray:
        """The library's ids of a text, int32 [tokens]; a long text is cut where that changes no id.

        Where no such position is known the text is encoded whole, which takes 150 to 250 bytes of memory per token.
        """
        if len(text) <= MAX_PART_CHARACTERS or self._cuts is None:
            return _ids(self._tokenizer, text)
        first, *others = cut(text, MAX_PART_CHARACTERS, self._cuts.is_safe)
        return np.concatenate([_ids(self._tokenizer, first), *(_ids(self._later_tokenizer, part) for part in others)])

    def marks(self) -> dict[str, int]:
        """The ids of the special tokens, by name."""
        return self._marks

    @functools.cached_property
    def _marks(self) -> dict[str, int]:
        return {name: found for name in self._special if (found := self.token_id(name)) is not None}

    def encode_marked(self, text: str) -> np.ndarray:
        """The ids of a text in which the names of special tokens are these tokens, int32 [tokens]."""
        return _ids(self._marked_tokenizer, text)

    def encode_with_ends(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """See `Tokenizer`; the library knows the characters of every token, of a text that it normalises too."""
        return _ids_and_ends(self._tokenizer, text)

    def encode_marked_with_ends(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """See `Tokenizer`."""
        return _ids_and_ends(self._marked_tokenizer, text)

    @functools.cached_property
    def _marked_tokenizer(self) -> tokenizers.Tokenizer:
        tokenizer, _ = read_tokenizer(self._content, "the tokenizer")
        tokenizer.post_processor, tokenizer.encode_special_tokens = None, False
        return tokenizer

    @functools.cached_property
    def _cuts(self) -> SafeCuts | None:
        return safe_cuts(json.loads(self._content))

    @functools.cached_property
    def _later_tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer for the parts of a text after the first."""
        if self._cuts is None or self._cuts.later_tokenizer is None:
            return self._tokenizer
        return read_tokenizer(json.dumps(self._cuts.later_tokenizer).encode(), "the tokenizer")[0]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids, without the end of document."""
        return self._tokenizer.decode(self.checked_ids(ids), skip_special_tokens=True)

    def is_lossless(self) -> bool:
        """Whether all of its steps are byte-level, as in the tokenizers of GPT-2 and LLaMA 3."""
        end = self.end_of_document
        # Decoding leaves out the end token, even where a text holds it because it is not a special token.
        special = end is None or self._tokenizer.id_to_token(end) in self._special
        return special and self._is_byte_lossless

    @functools.cached_property
    def _is_byte_lossless(self) -> bool:
        return is_byte_lossless(json.loads(self._content))

    def incremental_decoder(self) -> IncrementalDecoder:
        """A decoder of ids that arrive one by one."""
        stages = make_stages(self._tokenizer.decoder)
        return AtEndDecoder(self.decode) if stages is None else TokenDecoder(self._token, stages)

    def _token(self, token: int) -> str | None:
        text: str | None = self._tokenizer.id_to_token(token)
        return None if text in self._special else text

    def piece_bytes(self, token: int) -> bytes | None:
        """See `Tokenizer`: GPT-2's characters for bytes, and tokens <0xNN> that are bytes."""
        piece = self._token(token)
        if piece is None:
            return b""
        if self._is_byte_level:
            return byte_level_bytes(piece)
        return byte_of_name(piece) if self._has_byte_names else None

    @functools.cached_property
    def _is_byte_level(self) -> bool:
        return any(isinstance(stage, ByteLevelStage) for stage in make_stages(self._tokenizer.decoder) or ())

    @functools.cached_property
    def _has_byte_names(self) -> bool:
        return any(isinstance(stage, ByteFallbackStage) for stage in make_stages(self._tokenizer.decoder) or ())

    def save(self, folder: pathlib.Path) -> str:
        """Writes the file that `load` reads and returns its name."""
        replace_file(folder / self.FILE, self._content)
        return self.FILE

    @classmethod
    def load(cls, option: config.Tokenizer, path: pathlib.Path | None) -> HuggingFaceTokenizer:
        """The tokenizer of an option and a saved file; raises UserError when the file is damaged."""
        assert isinstance(option, config.HuggingFace)
        assert path is not None
        return cls(option, path.read_bytes(), str(path))


def is_byte_lossless(tokenizer_json: dict[str, Any]) -> bool:
    """Whether a tokenizer.json's tokens keep all bytes of every text, so that there is no need to decode and compare.

    This holds if nothing is normalised, words are kept as they are, each byte is a token, and no text becomes a token
    that decoding leaves out or turns into other bytes.
    """
    model, added = tokenizer_json["model"], tokenizer_json.get("added_tokens", [])
    splits = list(flatten_sequence(tokenizer_json.get("pre_tokenizer")))
    whole = [split["type"] == "ByteLevel" and not split["add_prefix_space"] for split in splits]
    kept = [split["type"] == "Digits" or split.get("behavior") == "Isolated" for split in splits]
    if tokenizer_json.get("normalizer") or not any(whole) or not all(map(operator.or_, whole, kept)):
        return False
    if (tokenizer_json.get("decoder") or {}).get("type") != "ByteLevel" or model.get("type") != "BPE":
        return False
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("ignore_merges"):
        return False
    merged = {"".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]}
    return model["vocab"].keys() >= BYTE_OF_CHARACTER.keys() and not any(
        token["content"] in merged | BYTE_OF_CHARACTER.keys() if token["special"] else not _is_plain(token)
        for token in added
    )


def _is_plain(token: dict[str, Any]) -> bool:
    """Whether an added token decodes to exactly the text that it matches."""
    return token["content"].isascii() and token["content"].isprintable() and not (token["lstrip"] or token["rstrip"])


def _ids(tokenizer: tokenizers.Tokenizer, text: str) -> np.ndarray:
    """The ids of a text without the ids that a post-processor adds, int32 [tokens]; UserError where there are none."""
    try:
        (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=False)
    except Exception as error:  # the library raises a plain Exception, as for a word that a closed vocabulary lacks
        raise UserError(f"the tokenizer cannot encode this text: {error}; give a text that it knows") from None
    return np.array(encoding.ids, np.int32)


def _ids_and_ends(tokenizer: tokenizers.Tokenizer, text: str) -> tuple[np.ndarray, np.ndarray]:
    """The ids of `_ids`, and the number of characters up to the end of each, int32 [tokens]."""
    try:
        encoding = tokenizer.encode(text, add_special_tokens=False)
    except Exception as error:
        raise UserError(f"the tokenizer cannot encode this text: {error}; give a text that it knows") from None
    ends = np.array([end for _, end in encoding.offsets], np.int32)
    return np.array(encoding.ids, np.int32), np.maximum.accumulate(ends) if len(ends) else ends
