"""The interface of data options and of their batches: what a run asks, whatever the batches are made from.

A new kind of data is a class of options that answers these questions, beside `Data` and `Generated`; nothing else asks
which kind it is.
"""

from __future__ import annotations

import abc
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from train.data.ramp import Batched
from train.files.paths import AnyPath

if TYPE_CHECKING:
    import numpy as np

    from train.data.batches.coverage import Coverage
    from train.data.batches.rows import DocumentSpan
    from train.data.prepare.progress import Reporter
    from train.data.shards.dataset import Dataset
    from train.data.tokenizers.interface import Tokenizer

# The processes that prepare text: those of this machine, or of the machines of a Ray cluster.
Engine = Literal["processes", "ray"]
# Called with a tokenizer and the folder that it is for.
CheckTokenizer = Callable[["Tokenizer", pathlib.Path], None]


class TrainingBatches(Protocol):
    """Endless batches; batch n is a pure function of the data, the seed and n."""

    @property
    def data(self) -> Batched:
        """The option, which knows the sizes of batches."""

    def rows(self, n: int, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """The given rows of global batch n, all of them by default."""

    def iterator(
        self, start: int = 0, rows: Sequence[int] | Callable[[int], Sequence[int]] = range, stop: int | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches start, start + 1, ..., of which some are made ahead until the iterator is closed."""

    def num_targets(self, n: int) -> int:
        """The number of counted targets in global batch n, over the rows of all hosts."""

    def documents(self, n: int, rows: Sequence[int] | None = None, characters: int = 60) -> list[DocumentSpan]:
        """The spans of documents in batch n, each with the beginning of its text."""


class EvaluationPass(Protocol):
    """The batches of a split, once."""

    @property
    def num_batches(self) -> int:
        """Their number."""

    @property
    def coverage(self) -> Coverage:
        """What their counted targets stand for."""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...


class DataOption(Batched, abc.ABC):
    """An option of data. Its fields include those that are declared here."""

    if TYPE_CHECKING:  # fields of the classes, which a property of the class would hide

        @property
        def sequence_length(self) -> int:
            """T, the tokens of a row."""

        @property
        def cross_document_attention(self) -> bool:
            """Whether all tokens of a row see each other."""

        @property
        def seed(self) -> int:
            """The seed of the order."""

        @property
        def prefetch(self) -> int:
            """The number of batches made ahead."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The batch fields that an objective can read, apart from segment_ids and positions."""
        return "tokens", "targets", "weights"

    @property
    def source_fields(self) -> tuple[str, ...]:
        """The further batch fields that a model with an encoder reads; () for data without sources."""
        return ()

    @property
    def own_ids(self) -> int:
        """The ids of the model's vocabulary that the tokenizer does not have and the batches do."""
        return 0

    @property
    def no_text(self) -> str | None:
        """The reason why the data are no running text that can be cut into windows; None where they are."""
        return None

    @property
    def known_task(self) -> Any:
        """The task that makes the sequences, whose symbols are the model's vocabulary; None for text."""
        return None

    def problems_with_vocabulary(self, size: int) -> Iterator[tuple[str, str]]:
        """Yields the fields that do not fit a model's vocabulary, or `model.vocab_size`, each with its problem."""
        yield from ()

    def starting_from(self, run: str | None) -> DataOption:
        """The option for a run that starts from the parameters of another one, whose tokenizer it may take."""
        return self

    def require_validation(self) -> None:
        """Raises UserError when nothing is held out, or it cannot be read; before anything is prepared."""
        return

    def shared_settings(self) -> Mapping[str, Any] | None:
        """The settings, as JSON, that runs with one prepared folder have in common; None where there is no folder."""
        return None

    @abc.abstractmethod
    def prepare(
        self,
        into: AnyPath | str,
        progress: Reporter | None = None,
        workers: int | None = None,
        check: CheckTokenizer | None = None,
        engine: Engine = "processes",
    ) -> AnyPath:
        """Returns the dataset folder: one that the option names, or `into`, filled; see train.data.prepare.prepare."""

    @abc.abstractmethod
    def training_batches(self, dataset: Dataset, fields: Sequence[str]) -> TrainingBatches:
        """The endless batches to train on, with the given fields."""

    @abc.abstractmethod
    def evaluation_batches(
        self, dataset: Dataset, split: str, limit: int | None, rows: Sequence[int]
    ) -> EvaluationPass:
        """One pass over a split, at most `limit` batches, and of each the given rows."""

    @abc.abstractmethod
    def shown(self, dataset: Dataset, step: int, rows: Sequence[int] | None, characters: int) -> str:
        """The content of the batch of the update to step `step`, for a person; `characters` of each document.

        Raises UserError where there is nothing to show.
        """
