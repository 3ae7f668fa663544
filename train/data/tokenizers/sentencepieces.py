"""SentencePiece: trained here so that no byte of any text is lost, or loaded from a .model file."""

from __future__ import annotations

import functools
import importlib
import io
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from model.errors import UserError
from train.data import config
from train.data.tokenizers.cutting import cut
from train.data.tokenizers.decoders import byte_of_name
from train.data.tokenizers.interface import Tokenizer, split_after_newline
from train.data.tokenizers.streaming import AtEndDecoder, IncrementalDecoder, complete_characters
from train.files.files import replace_file

if TYPE_CHECKING:
    import sentencepiece

# SentencePiece writes a space as U+2581 in its pieces and decodes that as a space.
SPACE_MARK = "\u2581"
# Encoding takes up to 100 bytes of memory per character; normalised text longer than this is cut where possible.
MAX_PART_CHARACTERS = 1 << 20
# Training on more text than this changes little and takes long.
MAX_TRAINING_CHARACTERS = 64_000_000
CHARACTERS_PER_SENTENCE = 2_000


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
            raise UserError(f"{where} is not a SentencePiece model, or is damaged: {error}") from None
        self.end_of_document = end if end >= 0 else None
        if isinstance(option, config.SentencePieceFile):
            self._begin = self._id(option.begin_of_document, where)
            self.vocab_size = self._padded_size(option.vocab_size, where)
        # A model trained here must lose nothing: it encodes a real U+2581 by its bytes. Other models follow the
        # library.
        self._space_mark_ids: list[int] = []
        if isinstance(option, config.SentencePiece):
            self._space_mark_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]

    def _id(self, piece: str | None, where: str) -> int | None:
        if piece is None:
            return None
        found: int = self._processor.piece_to_id(piece)
        if self._processor.id_to_piece(found) != piece:
            raise UserError(f"{where} has no piece {piece!r}: set data.tokenizer.begin_of_document to one that it has")
        return found

    def _padded_size(self, size: int | None, where: str) -> int:
        if size is not None and size < self.vocab_size:
            raise UserError(f"{where} has {self.vocab_size} pieces, more than data.tokenizer.vocab_size={size} holds")
        return size or self.vocab_size

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32 [tokens]."""
        if not self._space_mark_ids or SPACE_MARK not in text:
            return self._encode(text)
        parts = [np.array(self._space_mark_ids, np.int32), np.zeros(0, np.int32)] * (text.count(SPACE_MARK) + 1)
        parts[1::2] = [self._encode(between) for between in text.split(SPACE_MARK)]
        return np.concatenate(parts[1:])

    def _encode(self, text: str) -> np.ndarray:
        """The library's ids of a text, int32 [tokens]; a long text is normalised whole, then cut between pieces.

        Where there is no such position, and for every kind of model except byte-pair encoding, the text is encoded
        whole, which takes 25 to 100 bytes of memory per character. A unigram model adds up scores over the whole text,
        so that even a cut that no piece crosses may change the ids.
        """
        if len(text) <= MAX_PART_CHARACTERS or not self._may_be_cut:
            return np.array(self._processor.encode(text), np.int32)
        parts = cut(self._processor.normalize(text), MAX_PART_CHARACTERS, self._is_safe)
        return np.concatenate(
            [np.zeros(0, np.int32), *(self._processor_of_normalized.encode(part) for part in parts)], dtype=np.int32
        )

    def piece_bytes(self, token: int) -> bytes | None:
        """See `Tokenizer`."""
        model = self._processor
        if token >= model.get_piece_size() or model.is_control(token) or model.is_unknown(token):
            return b""
        piece: str = model.id_to_piece(token)
        return byte_of_name(piece) if model.is_byte(token) else piece.replace(SPACE_MARK, " ").encode("utf-8")

    def marks(self) -> dict[str, int]:
        """The ids of the control pieces, by name."""
        return self._marks

    @functools.cached_property
    def _marks(self) -> dict[str, int]:  # the library is asked about every piece, and there may be 256 thousand
        control = filter(self._processor.is_control, range(self._processor.get_piece_size()))
        return {self._processor.id_to_piece(i): i for i in control}

    @functools.cached_property
    def _description(self) -> Any:
        # Imported by name: the generated module declares its classes where no type checker sees them.
        module = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
        description = module.ModelProto()
        description.ParseFromString(self._model)
        return description

    @functools.cached_property
    def _may_be_cut(self) -> bool:
        trainer = self._description.trainer_spec
        return bool(trainer.model_type == trainer.BPE)

    @functools.cached_property
    def _processor_of_normalized(self) -> sentencepiece.SentencePieceProcessor:
        """The same model for text that is already normalised."""
        import sentencepiece

        description = type(self._description).FromString(self._model)
        normalizer = description.normalizer_spec
        normalizer.name, normalizer.precompiled_charsmap = "identity", b""
        normalizer.add_dummy_prefix = normalizer.remove_extra_whitespaces = normalizer.escape_whitespaces = False
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(description.SerializeToString())
        return processor

    @functools.cached_property
    def _mergeable_pairs(self) -> set[str]:
        """The pairs of neighbours within a piece; no other characters can be merged."""
        pieces = map(self._processor.id_to_piece, range(self._processor.get_piece_size()))
        return {piece[k : k + 2] for piece in pieces for k in range(len(piece) - 1)}

    def _is_safe(self, before: str, after: str) -> bool:
        """Whether no merge can join the two characters, and the library cannot join them as unknown characters."""
        unknown = self._processor.unk_id()
        return before + after not in self._mergeable_pairs and self._processor.piece_to_id(before) != unknown

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids, without the end of document."""
        known = self.checked_ids(ids)
        if self.vocab_size > (pieces := self._processor.get_piece_size()):  # the model has ids that are not pieces
            known = [i for i in known if i < pieces]
        return self._processor.decode(known)

    def is_lossless(self) -> bool:
        """Whether it was trained here; some other models are lossless too, but only for texts without U+2581."""
        return bool(self._space_mark_ids)

    def incremental_decoder(self) -> IncrementalDecoder:
        """A decoder of ids that arrive one by one."""
        rules = self._description.denormalizer_spec
        return AtEndDecoder(self.decode) if rules.precompiled_charsmap else _PieceDecoder(self._processor)

    def save(self, folder: pathlib.Path) -> str:
        """Writes the file that `load` reads and returns its name."""
        replace_file(folder / self.FILE, self._model)
        return self.FILE

    @classmethod
    def load(cls, option: config.Tokenizer, path: pathlib.Path | None) -> SentencePieceTokenizer:
        """The tokenizer of an option and a saved file; raises UserError when the file is damaged."""
        assert path is not None
        return cls(option, path.read_bytes(), str(path))


class _PieceDecoder(IncrementalDecoder):
    """Decodes pieces one by one: characters spelt in bytes wait until they are complete, all others come at once."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor) -> None:
        self._processor = processor
        self._num_pieces = processor.get_piece_size()
        # The library may remove spaces where a text begins, so a piece is decoded after another piece to find its text.
        self._neighbour = next(i for i in range(self._num_pieces) if processor.decode([i]))
        self._neighbour_length = len(processor.decode([self._neighbour]))
        self._spaces: list[int] = []
        self._started = False
        self._bytes = b""

    def push(self, token: int) -> str:
        """Takes an id and returns the text that it completes."""
        if token >= self._num_pieces:  # the last ids of a model may not be pieces
            return ""
        if not self._processor.is_byte(token):
            return self.flush() + self._piece(token)
        self._started = True
        self._bytes += int(self._processor.id_to_piece(token)[3:5], 16).to_bytes()
        text, self._bytes = complete_characters(self._bytes)
        return text

    def _piece(self, token: int) -> str:
        if self._processor.is_control(token):
            return ""
        if self._started:
            return self._processor.decode([self._neighbour, token])[self._neighbour_length :]
        text = self._processor.decode([*self._spaces, token])
        self._started, self._spaces = bool(text), [token]
        return text

    def end_known_text(self) -> str:
        """Returns nothing: all complete characters have been returned."""
        return ""

    def flush(self) -> str:
        """Returns the bytes of an unfinished character, each as U+FFFD."""
        text, self._bytes = "\ufffd" * len(self._bytes), b""
        return text


def train_sentencepiece(option: config.SentencePiece, texts: Iterable[str]) -> SentencePieceTokenizer:
    """Trains byte-pair encoding; the same texts give the same bytes. Raises UserError when the texts are too few."""
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
            # Nothing is normalised, so that decoding restores every byte of the text.
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            # Indentation and brackets are pieces like any other: code is text here.
            allow_whitespace_only_pieces=True,
            split_by_unicode_script=False,
            character_coverage=0.9999,
            max_sentence_length=8 * CHARACTERS_PER_SENTENCE,
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(_training_error(option, str(error))) from None
    return SentencePieceTokenizer(option, out.getvalue())


def _training_error(option: config.SentencePiece, error: str) -> str:
    """SentencePiece's error in terms of the option."""
    got = f"data.tokenizer.vocab_size={option.vocab_size}"
    if maximum := re.search(r"value <= (\d+)", error):
        return f"{got}: this text gives at most {maximum[1]} pieces; set it and model.vocab_size so, or give more text"
    if minimum := re.search(r"smaller than required_chars. \d+ vs (\d+)", error):
        return f"{got}: this text's characters alone take {minimum[1]} pieces; set it and model.vocab_size above that"
    return f"{got}: SentencePiece could not be trained on this text: {error}"


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    left = MAX_TRAINING_CHARACTERS
    for text in texts:
        yield from split_after_newline(text[:left], CHARACTERS_PER_SENTENCE)
        left -= len(text)
        if left <= 0:
            return
