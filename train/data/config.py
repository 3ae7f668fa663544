"""The options of the data: where the text is, how it becomes tokens, what is held out, how tokens fill sequences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from model.options.field_marks import EXECUTION_ONLY
from model.options.json import to_json
from train.data.interface import CheckTokenizer, DataOption, Engine
from train.data.ramp import Ramp
from train.files.paths import IS_PATH, AnyPath

if TYPE_CHECKING:
    from train.data.batches.pipeline import Batches, EvaluationBatches
    from train.data.prepare.progress import Reporter
    from train.data.shards.dataset import Dataset

# ------------------------------------------------------------------------------------------------------ tokenizers

MAX_PIECES = 1 << 24  # ten times the largest known SentencePiece vocabulary; a larger one would fill the memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePiece:
    """Byte-pair encoding with byte fallback, trained by SentencePiece on the training split; loses no byte of any text.

    `vocab_size` counts the 256 bytes and two special pieces; `split_digits` gives every digit its own piece.
    """

    vocab_size: int = 4096
    split_digits: bool = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.vocab_size < 300:
            yield (
                "vocab_size",
                f"{self.vocab_size} leaves no room beside the 256 bytes; expected at least 300",
            )
        if self.vocab_size > MAX_PIECES:
            yield "vocab_size", f"expected at most {MAX_PIECES:,}, got {self.vocab_size:,}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePieceFile:
    """A SentencePiece model file; its end-of-sentence piece, if any, ends documents.

    `begin_of_document` is the piece that begins documents and prompts; None for the piece that ends documents.
    `vocab_size` is the language model's vocabulary size where it is larger than the tokenizer's; None for the
    tokenizer's.
    """

    path: str = dataclasses.field(metadata=IS_PATH)
    begin_of_document: str | None = None
    vocab_size: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class HuggingFace:
    """A Hugging Face `tokenizer.json`; `end_of_document` is the text of the token that ends documents, if there is one.

    `begin_of_document` is the text of the token that begins documents and prompts; None for the token that ends
    documents. `vocab_size` is the language model's vocabulary size where it is larger than the tokenizer's; None for
    the tokenizer's.
    """

    path: str = dataclasses.field(metadata=IS_PATH)
    end_of_document: str | None = None
    begin_of_document: str | None = None
    vocab_size: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bytes:
    """The 256 bytes of UTF-8, and a token that ends documents unless `end_of_document` is False."""

    end_of_document: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Characters:
    """The characters of the text, and a token that ends documents if `end_of_document` is True."""

    end_of_document: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerOf:
    """The tokenizer of a dataset folder, with which to prepare another source of the same mixture."""

    path: str = dataclasses.field(metadata=IS_PATH)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers:
    """Ids written as numbers with spaces between them, as for tokens that stand for no text.

    No token begins or ends documents.
    """

    vocab_size: int

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not 1 <= self.vocab_size <= MAX_PIECES:
            yield "vocab_size", f"expected from 1 to {MAX_PIECES:,}, got {self.vocab_size:,}"


Tokenizer = SentencePiece | SentencePieceFile | HuggingFace | Bytes | Characters | Numbers

# ------------------------------------------------------------------------------------------------------ validation


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutDocuments:
    """Holds out about `fraction` of the bytes, in whole documents chosen by a seeded hash of their names.

    Documents that share at least `similarity` of the smaller document's significant lines go to the same split.
    Generated tables are never held out; without `keep_generated` they are not trained on either. A similarity of None
    compares no documents, which saves the second pass over a large corpus.
    """

    fraction: float = 0.08
    seed: int = 0
    similarity: float | None = 0.3
    keep_generated: bool = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not 0 < self.fraction < 1:
            yield "fraction", f"expected a share between 0 and 1, got {self.fraction}"
        if self.similarity is not None and not 0 < self.similarity <= 1:
            yield "similarity", f"expected a share above 0 and at most 1, got {self.similarity}"
        if self.similarity is None and not self.keep_generated:
            yield "keep_generated", "tables are found while documents are compared, which similarity=None leaves out"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tail:
    """Holds out the last `fraction` of the characters of each text file, as nanoGPT does."""

    fraction: float = 0.1

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not 0 < self.fraction < 1:
            yield "fraction", f"expected a share between 0 and 1, got {self.fraction}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeparateText:
    """Holds out nothing of the training text: the validation text has its own path."""

    path: str = dataclasses.field(metadata=IS_PATH)
    field: str = "text"


Validation = HeldOutDocuments | Tail | SeparateText

# --------------------------------------------------------------------------------------------------------- packing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Concatenate:
    """Joins the documents end to end and cuts the stream into sequences: only the last sequence is padded.

    `order` is the order of the files or a seeded permutation. With `random_offset` every epoch cuts the stream at
    other positions, so that a token has another context each time.
    """

    order: Literal["shuffled", "files"] = "shuffled"
    random_offset: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class BestFit:
    """Keeps documents whole where they fit: best-fit decreasing ("Fewer Truncations Improve Language Modeling", 2024).

    Documents longer than a sequence are cut; the rest of each sequence is padded.
    """


Packing = Concatenate | BestFit

# ------------------------------------------------------------------------------------------------------------ data


# Batches, also those read ahead, are arrays in the host's memory: a mistyped number would fill it.
MAX_BATCH_TOKENS, MAX_PREFETCH = 1 << 28, 1000


def problems_of_minima(option: DataOption, **minima: int) -> Iterator[tuple[str, str]]:
    """Yields each field that is below its minimum."""
    for name, minimum in minima.items():
        if getattr(option, name) < minimum:
            yield name, f"expected at least {minimum}, got {getattr(option, name)}"


def problems_of_batches(option: DataOption, rows: str) -> Iterator[tuple[str, str]]:
    """Yields batches that a mistyped number made too large for the host; `rows` is a word for what they consist of."""
    if option.texts_of_row * option.batch_size * option.sequence_length > MAX_BATCH_TOKENS:
        yield "batch_size", f"one batch has more than {MAX_BATCH_TOKENS:,} tokens; expected fewer {rows}"
    yield from problems_of_prefetch(option)


def problems_of_prefetch(option: DataOption) -> Iterator[tuple[str, str]]:
    """Yields a number of batches to read ahead that would fill the host."""
    if option.prefetch > MAX_PREFETCH:
        yield "prefetch", f"expected at most {MAX_PREFETCH:,}, got {option.prefetch:,}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One text of a mixture: sequences are drawn from it in proportion to `weight`.

    `path` is a dataset folder, a text file, a folder, a glob, a .jsonl, .json or .parquet file, each possibly
    compressed (.gz, .bz2, .xz, .zst), `hf:NAME[:CONFIG[:SPLIT]]` for a Hugging Face dataset, or `stdlib` for Python's
    own sources; `field` names the field with the text in jsonl, json, parquet and hf.
    """

    path: str = dataclasses.field(metadata=IS_PATH)
    weight: float = 1.0
    field: str = "text"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not self.path:
            yield "path", "expected a path, got an empty string"
        if not self.weight > 0:
            yield (
                "weight",
                f"expected a weight above 0, got {self.weight}; leave out a source that is not wanted",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(DataOption):
    """The training data. Batch n is a pure function of this option, of the text, and of n.

    `path` is one source or a mixture of sources (see Source). `tokenizer` and `validation` say how raw text is
    prepared; for a dataset folder, which is already prepared, each must be None or the value that the folder was made
    with. `batch_size` counts the sequences of all hosts together; with a `ramp` batches grow to it. `prefetch` is the
    number of batches read ahead.
    """

    path: str | tuple[Source, ...] = dataclasses.field(default="stdlib", metadata=IS_PATH)
    tokenizer: SentencePiece | SentencePieceFile | HuggingFace | Bytes | Characters | Numbers | TokenizerOf | None = (
        SentencePiece()
    )
    validation: HeldOutDocuments | Tail | SeparateText | None = HeldOutDocuments()
    packing: Concatenate | BestFit = Concatenate()
    batch_size: int = 16
    ramp: Ramp | None = None
    sequence_length: int = 256
    cross_document_attention: bool = False
    seed: int = 0
    prefetch: int = dataclasses.field(default=16, metadata=EXECUTION_ONLY)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from problems_of_minima(self, batch_size=1, sequence_length=2, seed=0, prefetch=0)
        if self.batch_size * self.sequence_length > MAX_BATCH_TOKENS:
            size = f"{self.batch_size:,} sequences of {self.sequence_length:,} tokens"
            yield "batch_size", f"{size} make one batch of more than {MAX_BATCH_TOKENS:,} tokens; expected fewer"
        yield from problems_of_prefetch(self)
        if not self.path:
            yield "path", "expected a path or at least one Source, got nothing"
        if self.ramp is not None and self.batch_size >= 1:
            yield from ((f"ramp.{name}", message) for name, message in self.ramp.problems_with(self.batch_size))

    def sources(self) -> tuple[Source, ...]:
        """The sources of the mixture; a single path is one source of weight 1."""
        return (Source(path=self.path),) if isinstance(self.path, str) else self.path

    @property
    def fields(self) -> tuple[str, ...]:
        """See `DataOption`; `text` is 1 where a token is one of the text, and no mark."""
        return "tokens", "targets", "weights", "text"

    def problems_with_vocabulary(self, size: int) -> Iterator[tuple[str, str]]:
        """See `DataOption`."""
        if isinstance(self.tokenizer, SentencePiece) and self.tokenizer.vocab_size != size:
            found = f"{self.tokenizer.vocab_size}, but model.vocab_size={size}; set both to the same number"
            yield "data.tokenizer.vocab_size", found

    def require_validation(self) -> None:
        """See `DataOption`."""
        from train.data.prepare.settings import require_validation_text

        require_validation_text(self)

    def shared_settings(self) -> Mapping[str, Any] | None:
        """See `DataOption`; None where a source is a dataset folder."""
        from train.data.shards.dataset import is_dataset

        if any(is_dataset(source.path) for source in self.sources()):
            return None
        return {name: to_json(getattr(self, name)) for name in ("path", "tokenizer", "validation")}

    def prepare(
        self,
        into: AnyPath | str,
        progress: Reporter | None = None,
        workers: int | None = None,
        check: CheckTokenizer | None = None,
        engine: Engine = "processes",
    ) -> AnyPath:
        """See `DataOption`."""
        from train.data.prepare.prepare import prepare_text

        return prepare_text(self, into, progress, workers, check, engine)

    def training_batches(self, dataset: Dataset, fields: Sequence[str]) -> Batches:
        """See `DataOption`."""
        from train.data.batches.pipeline import Batches

        return Batches(dataset, self, "train", fields)

    def evaluation_batches(
        self, dataset: Dataset, split: str, limit: int | None, rows: Sequence[int]
    ) -> EvaluationBatches:
        """See `DataOption`."""
        from train.data.batches.pipeline import EvaluationBatches

        return EvaluationBatches(dataset, self, split, limit=limit, rows=rows)

    def shown(self, dataset: Dataset, step: int, rows: Sequence[int] | None, characters: int) -> str:
        """See `DataOption`: a line for each span of a document."""
        from train.data.prepare.summary import documents_of_step

        return documents_of_step(self.training_batches(dataset, ()), step, rows, characters)
