"""Packs windows of documents into the rows of a batch: short documents share rows, and the model keeps them apart."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from model.config import ModelConfig
from train.data.batches.packing import BestFitIndex, best_fit
from train.data.batches.rows import empty_batch

AHEAD = 4  # batches that are packed together: more fill the rows better, and need more memory
FIELDS = ("tokens", "targets", "segment_ids", "positions")  # the host chooses which targets are scored


class Stretch(NamedTuple):
    """One window of a document.

    Attributes:
      document: the number of the document.
      inputs, targets: the tokens of the window, and the token that follows each.
      first: the index of the first input whose target is scored.
    """

    document: int
    inputs: np.ndarray
    targets: np.ndarray
    first: int


Row = list[Stretch]


def isolates(model: ModelConfig, length: int) -> bool:
    """Whether a model's output for a document does not depend on the other documents in its row of `length` tokens.

    With experts that have a fixed number of slots for a row it does depend: their options say so by `depends_on_row`.
    """
    return not any(option.depends_on_row(length) for option in _options(model) if hasattr(option, "depends_on_row"))


def _options(value: Any) -> Iterator[Any]:
    """Yields an option and all options inside it."""
    if isinstance(value, tuple):
        for item in value:
            yield from _options(item)
    elif dataclasses.is_dataclass(value):
        yield value
        for field in dataclasses.fields(value):
            yield from _options(getattr(value, field.name))


def rows(stretches: Iterable[Stretch], length: int, *, packed: bool, ahead: int) -> Iterator[Row]:
    """Yields rows of stretches of at most `length` tokens: one stretch a row, or `packed` as in training.

    `ahead` is the number of tokens that are packed at a time. Stretches as long as a row stay in order.
    """
    if not packed:
        yield from ([stretch] for stretch in stretches)
        return
    waiting: list[Stretch] = []
    size = 0
    for stretch in stretches:
        waiting.append(stretch)
        size += len(stretch.inputs)
        if size >= ahead:
            yield from _best_fit(waiting, length)
            waiting, size = [], 0
    yield from _best_fit(waiting, length)


def _best_fit(stretches: Sequence[Stretch], length: int) -> Iterator[Row]:
    index = BestFitIndex(**best_fit(np.array([len(s.inputs) for s in stretches], np.int64), length))
    for row in range(index.num_rows):
        yield [stretches[piece.document] for piece in index.spans(row, 0)]


def batch_of(some: Sequence[Row], size: int, length: int) -> dict[str, np.ndarray]:
    """The arrays of a batch of rows, each (size, length); the rest is padding."""
    batch = empty_batch(size, length, FIELDS)
    for at, row in enumerate(some):
        for segment_id, (stretch, begin, stop) in enumerate(placed(row), start=1):
            batch["tokens"][at, begin:stop] = stretch.inputs
            batch["targets"][at, begin:stop] = stretch.targets
            batch["segment_ids"][at, begin:stop] = segment_id
            batch["positions"][at, begin:stop] = np.arange(stop - begin)
    return batch


def placed(row: Row) -> Iterator[tuple[Stretch, int, int]]:
    """Yields the stretches of a row, each with its columns [begin, stop)."""
    ends = itertools.accumulate(len(stretch.inputs) for stretch in row)
    for stretch, stop in zip(row, ends, strict=True):
        yield stretch, stop - len(stretch.inputs), stop
