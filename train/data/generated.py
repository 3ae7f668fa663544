"""Training data that a task makes: no text, no tokenizer; sequence n is a pure function of a seed and n."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from model.errors import UserError
from model.options.field_marks import EXECUTION_ONLY
from train.data.config import problems_of_batches, problems_of_minima
from train.data.interface import CheckTokenizer, DataOption, Engine
from train.evaluation.probes.induction import Induction
from train.evaluation.probes.markov import MarkovChains
from train.evaluation.probes.modular import ModularAddition
from train.evaluation.probes.needle import Needle
from train.evaluation.probes.recall import Recall
from train.files.paths import AnyPath, local_path

if TYPE_CHECKING:
    from train.data.batches.generated import GeneratedBatches, GeneratedEvaluation
    from train.data.prepare.progress import Reporter
    from train.data.shards.dataset import Dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generated(DataOption):
    """Sequences of a task, all different: training never sees one twice, and the validation sequences are others.

    The model's vocabulary are the symbols of the task, and the length of sequences is that of the task.

    Attributes:
      task: the task (train/evaluation/probes/).
      batch_size: the sequences of all hosts together.
      validation_batches: the number of batches that are held out.
      seed: the seed of all sequences.
      prefetch: the number of batches made ahead.
    """

    task: MarkovChains | Induction | Recall | Needle | ModularAddition
    batch_size: int = 64
    validation_batches: int = 8
    seed: int = 0
    prefetch: int = dataclasses.field(default=16, metadata=EXECUTION_ONLY)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from problems_of_minima(self, batch_size=1, validation_batches=1, seed=0, prefetch=0)
        yield from problems_of_batches(self, "sequences")

    @property
    def sequence_length(self) -> int:
        """T, the length of the task's sequences."""
        return self.task.length

    @property
    def cross_document_attention(self) -> bool:
        """Whether all tokens of a sequence see each other: they are one document."""
        return True

    @property
    def no_text(self) -> str | None:
        """See `DataOption`."""
        return f"{type(self.task).__name__} makes the sequences"

    @property
    def known_task(self) -> Any:
        """See `DataOption`."""
        return self.task

    def problems_with_vocabulary(self, size: int) -> Iterator[tuple[str, str]]:
        """See `DataOption`."""
        if (symbols := self.task.num_symbols) != size:
            yield "model.vocab_size", f"{size}, but data.task has {symbols} symbols; set it to {symbols}"

    def prepare(
        self,
        into: AnyPath | str,
        progress: Reporter | None = None,
        workers: int | None = None,
        check: CheckTokenizer | None = None,
        engine: Engine = "processes",
    ) -> AnyPath:
        """See `DataOption`: a folder without text."""
        from train.data.prepare.generated import prepare_generated

        return prepare_generated(self, local_path(into, "a dataset that is made"))

    def training_batches(self, dataset: Dataset, fields: Sequence[str]) -> GeneratedBatches:
        """See `DataOption`."""
        from train.data.batches.generated import GeneratedBatches

        return GeneratedBatches(self, "train", fields)

    def evaluation_batches(
        self, dataset: Dataset, split: str, limit: int | None, rows: Sequence[int]
    ) -> GeneratedEvaluation:
        """See `DataOption`; a task makes the validation split of its own run alone."""
        from train.data.batches.generated import GeneratedEvaluation

        return GeneratedEvaluation(self, split, limit, rows)

    def shown(self, dataset: Dataset, step: int, rows: Sequence[int] | None, characters: int) -> str:
        """See `DataOption`."""
        raise UserError(f"its sequences are made by {type(self.task).__name__}, not read from documents")
