"""The option of data that are pairs of a source and a target: where they are, what is held out, how long they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from model.options.field_marks import EXECUTION_ONLY
from train.data.config import (
    Bytes,
    HuggingFace,
    SentencePieceFile,
    TokenizerOf,
    problems_of_batches,
    problems_of_minima,
)
from train.data.conversations.option import RowsOption
from train.data.interface import CheckTokenizer, Engine
from train.data.preferences.option import HeldOutPrompts, NoTemplate, SeparatePreferences
from train.files.paths import IS_PATH, AnyPath, local_path

if TYPE_CHECKING:
    from train.data.pairs.batches import PairBatches, PairEvaluation
    from train.data.prepare.progress import Reporter
    from train.data.shards.dataset import Dataset

SOURCE_FIELDS = ("source", "source_segment_ids")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs(RowsOption):
    """A source and a target in each row: objects of JSON with the fields "source" and "target", which are texts.

    Batch n is a pure function of this option, of the files, and of n. Both texts end with the tokenizer's mark that
    ends documents, if it has one; the loss counts every token of the target.

    Attributes:
      path: a .jsonl file, a folder or a pattern of them, perhaps compressed.
      tokenizer: None for that of the run that training starts from (training.init_from).
      validation: the rows that are held out: a share of the sources, or rows with a path of their own.
      batch_size: the pairs of all hosts together.
      source_length: S, the most tokens of a source.
      sequence_length: T, the most tokens of a target.
      too_long: "refuse" a pair with more tokens, or "drop" such pairs, whose number is told.
      seed: the seed of the order.
      prefetch: the number of batches read ahead.
    """

    token_settings = "tokenizer", "validation", "source_length", "sequence_length", "too_long"
    template: ClassVar[NoTemplate] = NoTemplate()

    path: str = dataclasses.field(metadata=IS_PATH)
    tokenizer: SentencePieceFile | HuggingFace | Bytes | TokenizerOf | None = None
    validation: HeldOutPrompts | SeparatePreferences = HeldOutPrompts()
    batch_size: int = 64
    source_length: int = 128
    sequence_length: int = 128
    too_long: Literal["refuse", "drop"] = "refuse"
    seed: int = 0
    prefetch: int = dataclasses.field(default=16, metadata=EXECUTION_ONLY)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from problems_of_minima(self, batch_size=1, source_length=1, sequence_length=1, seed=0, prefetch=0)
        yield from problems_of_batches(self, "pairs")
        if not self.path:
            yield "path", "expected the path of a .jsonl file, got an empty string"

    @property
    def source_fields(self) -> tuple[str, ...]:
        """See `DataOption`."""
        return SOURCE_FIELDS

    @property
    def cross_document_attention(self) -> bool:
        """Whether all tokens of a row see each other: a row is one target, and its padding comes last."""
        return True

    @property
    def no_text(self) -> str | None:
        """See `DataOption`."""
        return "pairs of a source and a target are no running text"

    def prepare(
        self,
        into: AnyPath | str,
        progress: Reporter | None = None,
        workers: int | None = None,
        check: CheckTokenizer | None = None,
        engine: Engine = "processes",
    ) -> AnyPath:
        """See `DataOption`; one process does it."""
        from train.data.pairs.preparing import prepare_pairs

        return prepare_pairs(self, local_path(into, "a dataset that is made"), progress, check)

    def training_batches(self, dataset: Dataset, fields: Sequence[str]) -> PairBatches:
        """See `DataOption`."""
        from train.data.pairs.batches import PairBatches

        return PairBatches(dataset, self, "train", fields)

    def evaluation_batches(
        self, dataset: Dataset, split: str, limit: int | None, rows: Sequence[int]
    ) -> PairEvaluation:
        """See `DataOption`."""
        from train.data.pairs.batches import PairEvaluation

        return PairEvaluation(dataset, self, split, limit, rows)

    def shown(self, dataset: Dataset, step: int, rows: Sequence[int] | None, characters: int) -> str:
        """See `DataOption`: a line for each pair."""
        from train.data.prepare.summary import documents_of_step

        batches: Any = self.training_batches(dataset, ())
        return documents_of_step(batches, step, rows, characters)
