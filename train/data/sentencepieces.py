"""SentencePiece: trained here so that no byte of any text is lost, or loaded from a .model file."""

from __future__ import annotations

import io
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from model.errors import UserError
from train.data import config
from train.data.tokenizers import Tokenizer, split_after_newline
from train.files import replace_file

# SentencePiece writes a space as U+2581 inside and reads that back as a space, so a real U+2581 must go by its bytes.
SPACE_MARK = "\u2581"
# Its encoder takes some hundred bytes of memory a character; long texts are encoded in parts, cut after a newline.
PART = 1 << 18
# Training on more text than this changes little and takes long.
TRAINING_CHARACTERS = 64_000_000
TRAINING_CHUNK = 2_000


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model; ids are its pieces."""

    FILE = "tokenizer.model"

    def __init__(self, option: config.Tokenizer, model: bytes, where: str = "the tokenizer") -> None:
        import sentencepiece

        self.option = option
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
            self.vocab_size = self._processor.get_piece_size()
            end = self._processor.eos_id()
        except (RuntimeError, OSError) as error:
            raise UserError(f"{where} is no SentencePiece model, or a damaged one: {error}") from None
        self.end_of_document = end if end >= 0 else None
        if isinstance(option, config.SentencePieceFile):
            self._begin = self._id(option.begin_of_document, where)
            self.vocab_size = self._padded(option.vocab_size, where)
        mark = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
        self._mark = mark if all(self._processor.is_byte(i) for i in mark) else None

    def _id(self, piece: str | None, where: str) -> int | None:
        if piece is None:
            return None
        found: int = self._processor.piece_to_id(piece)
        if self._processor.id_to_piece(found) != piece:
            raise UserError(f"{where} has no piece {piece!r}: give data.tokenizer.begin_of_document one")
        return found

    def _padded(self, size: int | None, where: str) -> int:
        if size is not None and size < self.vocab_size:
            raise UserError(f"{where} has {self.vocab_size} pieces, more than data.tokenizer.vocab_size={size} holds")
        return size or self.vocab_size

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32 [tokens]."""
        parts = [np.array(self._encode(part), np.int32) for part in split_after_newline(text, PART)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def _encode(self, text: str) -> list[int]:
        if self._mark is None or SPACE_MARK not in text:
            return self._processor.encode(text)
        ids: list[int] = []
        for k, between in enumerate(text.split(SPACE_MARK)):
            ids += (self._mark if k else []) + self._processor.encode(between)
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids, without the end of document."""
        pieces = self._processor.get_piece_size()  # of the model's ids the last may be none of the tokenizer's
        return self._processor.decode([i for i in self.checked(ids) if i < pieces])

    def save(self, folder: pathlib.Path) -> str:
        """Writes the file that `load` reads and returns its name."""
        replace_file(folder / self.FILE, self._model)
        return self.FILE

    @classmethod
    def load(cls, option: config.Tokenizer, path: pathlib.Path | None) -> SentencePieceTokenizer:
        """The tokenizer of an option and a saved file; raises UserError when that is damaged."""
        assert path is not None
        return cls(option, path.read_bytes(), str(path))


def train_sentencepiece(option: config.SentencePiece, texts: Iterable[str]) -> SentencePieceTokenizer:
    """Trains byte-pair encoding; the same texts give the same bytes. Raises UserError when they are too few."""
    import sentencepiece

    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts),
            model_writer=out,
            model_type="bpe",
            vocab_size=option.vocab_size,
            split_digits=option.split_digits,
            byte_fallback=True,
            # Nothing is normalised, so that decoding gives back the text to the byte.
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            # Indentation and brackets are pieces like any other: code is text here.
            allow_whitespace_only_pieces=True,
            split_by_unicode_script=False,
            character_coverage=0.9999,
            max_sentence_length=8 * TRAINING_CHUNK,
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(_why_not(option, str(error))) from None
    return SentencePieceTokenizer(option, out.getvalue())


def _why_not(option: config.SentencePiece, error: str) -> str:
    """SentencePiece's complaint in the words of the option."""
    got = f"data.tokenizer.vocab_size={option.vocab_size}"
    if most := re.search(r"value <= (\d+)", error):
        return f"{got}: this text gives at most {most[1]} pieces: set it and model.vocab_size so, or give more text"
    if least := re.search(r"smaller than required_chars. \d+ vs (\d+)", error):
        return f"{got}: this text's characters alone take {least[1]} pieces; set it and model.vocab_size above that"
    return f"{got}: SentencePiece could not be trained on this text: {error}"


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    left = TRAINING_CHARACTERS
    for text in texts:
        yield from split_after_newline(text[:left], TRAINING_CHUNK)
        left -= len(text)
        if left <= 0:
            return
