"""The option of data that are preferences: where the rows are, what is held out, how many pairs a batch has."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from model.options.field_marks import EXECUTION_ONLY
from train.data.config import (
    Bytes,
    HuggingFace,
    SentencePieceFile,
    TokenizerOf,
    problems_of_batches,
    problems_of_minima,
)
from train.data.conversations.option import PlainTemplate, RowsOption, TemplateFile, TemplateOf
from train.data.interface import CheckTokenizer, Engine
from train.files.paths import IS_PATH, AnyPath, local_path

if TYPE_CHECKING:
    from train.data.preferences.batches import PreferenceBatches, PreferenceEvaluation
    from train.data.prepare.progress import Reporter
    from train.data.shards.dataset import Dataset

# The batch fields of each form (train/data/preferences/batches.py).
OF_ANSWER = ("tokens", "targets", "weights")
PAIR_FIELDS = (*(f"chosen_{name}" for name in OF_ANSWER), *(f"rejected_{name}" for name in OF_ANSWER), "margin")
LABEL_FIELDS = (*OF_ANSWER, "label", *(f"other_{name}" for name in OF_ANSWER))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoTemplate:
    """Prompts and answers are texts as they stand, for models that never saw a chat template."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutPrompts:
    """Holds out about `fraction` of the prompts, by a seeded hash: rows with the same prompt are in the same split."""

    fraction: float = 0.05
    seed: int = 0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not 0 < self.fraction < 1:
            yield "fraction", f"expected a share between 0 and 1, got {self.fraction}"
        if self.seed < 0:
            yield "seed", f"expected at least 0, got {self.seed}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeparatePreferences:
    """Holds out nothing of the training rows: the validation rows have their own path."""

    path: str = dataclasses.field(metadata=IS_PATH)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preferences(RowsOption):
    """Pairs of answers, or answers with labels (train/data/preferences/reading.py).

    Batch n is a pure function of this option, of the files, and of n. No answer is cut.

    Attributes:
      path: a .jsonl file, a folder or a pattern of them, perhaps compressed.
      tokenizer: None for that of the run that training starts from (training.init_from).
      template: the chat template; None for that of the run that training starts from, or the plain one if it has none.
      form: "pairs"; or "labels", single answers that are desirable or not, which may be made of pairs.
      validation: the rows that are held out.
      batch_size: the pairs, or the labelled answers, of all hosts together.
      sequence_length: T, the most tokens of a prompt with its answer and the mark that ends it.
      too_long: "refuse" a row with more tokens, or "drop" such rows, whose number is told.
      seed: the seed of the order.
      prefetch: the number of batches read ahead.
    """

    token_settings = "tokenizer", "template", "form", "validation", "sequence_length", "too_long"

    path: str = dataclasses.field(metadata=IS_PATH)
    tokenizer: SentencePieceFile | HuggingFace | Bytes | TokenizerOf | None = None
    template: NoTemplate | PlainTemplate | TemplateFile | TemplateOf | None = None
    form: Literal["pairs", "labels"] = "pairs"
    validation: HeldOutPrompts | SeparatePreferences = HeldOutPrompts()
    batch_size: int = 16
    sequence_length: int = 256
    too_long: Literal["refuse", "drop"] = "refuse"
    seed: int = 0
    prefetch: int = dataclasses.field(default=16, metadata=EXECUTION_ONLY)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from problems_of_minima(self, batch_size=1, sequence_length=2, seed=0, prefetch=0)
        yield from problems_of_batches(self, "pairs")
        if not self.path:
            yield "path", "expected the path of a .jsonl file, got an empty string"

    @property
    def fields(self) -> tuple[str, ...]:
        """The batch fields that these data have."""
        return PAIR_FIELDS if self.form == "pairs" else LABEL_FIELDS

    @property
    def texts_of_row(self) -> int:
        """See `Batched`: two answers, or an answer and the mismatched one."""
        return 2

    @property
    def cross_document_attention(self) -> bool:
        """Whether all tokens of a row see each other: a row is one text, and its padding comes last."""
        return True

    @property
    def no_text(self) -> str | None:
        """See `DataOption`."""
        return "preferences are no running text"

    def prepare(
        self,
        into: AnyPath | str,
        progress: Reporter | None = None,
        workers: int | None = None,
        check: CheckTokenizer | None = None,
        engine: Engine = "processes",
    ) -> AnyPath:
        """See `DataOption`; one process does it."""
        from train.data.preferences.preparing import prepare_preferences

        return prepare_preferences(self, local_path(into, "a dataset that is made"), progress, check)

    def training_batches(self, dataset: Dataset, fields: Sequence[str]) -> PreferenceBatches:
        """See `DataOption`."""
        from train.data.preferences.batches import PreferenceBatches

        return PreferenceBatches(dataset, self, "train", fields)

    def evaluation_batches(
        self, dataset: Dataset, split: str, limit: int | None, rows: Sequence[int]
    ) -> PreferenceEvaluation:
        """See `DataOption`."""
        from train.data.preferences.batches import PreferenceEvaluation

        return PreferenceEvaluation(dataset, self, split, limit, rows)

    def shown(self, dataset: Dataset, step: int, rows: Sequence[int] | None, characters: int) -> str:
        """See `DataOption`: a line for each answer."""
        from train.data.prepare.summary import documents_of_step

        batches: Any = self.training_batches(dataset, ())
        return documents_of_step(batches, step, rows, characters)
