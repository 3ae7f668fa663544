"""Packs windows of documents into the rows of a batch: short documents share rows, and the model keeps them apart."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from model.config import ModelConfig
from train.data.batches.packing import BestFitIndex, best_fit
from train.data.batches.rows import empty_batch

BATCHES_PACKED_TOGETHER = 4  # more fill the rows better, and need more memory
FIELDS = ("tokens", "targets", "segment_ids", "positions")  # the host chooses which targets are scored


class DocumentWindow(NamedTuple):
    """One window of a document.

    Attributes:
      document: the number of the document.
      inputs, targets: the tokens of the window, and the token that follows each.
      first_scored: the index of the first input whose target is scored.
      begin: the index of its first input in the document.
      weight: see `train.evaluation.windows.Window`.
    """

    document: int
    inputs: np.ndarray
    targets: np.ndarray
    first_scored: int
    begin: int = 0
    weight: float = 1.0


Row = list[DocumentWindow]


def isolates_documents(model: ModelConfig, length: int) -> bool:
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


def pack_rows(windows: Iterable[DocumentWindow], length: int, *, packed: bool, lookahead: int) -> Iterator[Row]:
    """Yields rows of windows of at most `length` tokens: one window a row, or `packed` as in training.

    `lookahead` is the number of tokens that are packed at a time. Windows as long as a row stay in order.
    """
    if not packed:
        yield from ([window] for window in windows)
        return
    pending: list[DocumentWindow] = []
    size = 0
    for window in windows:
        pending.append(window)
        size += len(window.inputs)
        if size >= lookahead:
            yield from _best_fit(pending, length)
            pending, size = [], 0
    yield from _best_fit(pending, length)


def _best_fit(windows: Sequence[DocumentWindow], length: int) -> Iterator[Row]:
    index = BestFitIndex(**best_fit(np.array([len(window.inputs) for window in windows], np.int64), length))
    for row in range(index.num_rows):
        yield [windows[span.document] for span in index.spans(row, 0)]


def make_batch(rows: Sequence[Row], size: int, length: int) -> dict[str, np.ndarray]:
    """The arrays of a batch of rows, each (size, length); the rest is padding."""
    batch = empty_batch(size, length, FIELDS)
    for index, row in enumerate(rows):
        for segment_id, (window, begin, stop) in enumerate(with_columns(row), start=1):
            batch["tokens"][index, begin:stop] = window.inputs
            batch["targets"][index, begin:stop] = window.targets
            batch["segment_ids"][index, begin:stop] = segment_id
            batch["positions"][index, begin:stop] = np.arange(stop - begin)
    return batch


def with_columns(row: Row) -> Iterator[tuple[DocumentWindow, int, int]]:
    """Yields the windows of a row, each with its columns [begin, stop)."""
    ends = itertools.accumulate(len(window.inputs) for window in row)
    for window, stop in zip(row, ends, strict=True):
        yield window, stop - len(window.inputs), stop
