"""Batches of conversations: batch n as a pure function of (data, seed, n), with a weight of 1 where a target counts.

A conversation of n tokens has n - 1 pairs (input, target), all in one row; the first token is never a target.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from model.errors import UserError
from train.data.batches.coverage import Coverage
from train.data.batches.packing import BestFitIndex, Index, Span, open_index
from train.data.batches.pipeline import PackedBatches, fill_batch
from train.data.batches.prefetch import OnePass
from train.data.batches.rows import FIELDS, Batch, PackedSplit
from train.data.config import BestFit
from train.data.conversations.option import Conversations
from train.data.conversations.tokens import COUNTS
from train.data.shards.dataset import Dataset, Split
from train.data.shards.shards import HOW_TO_FIX

NOTES = "{split}.tokens.npy"  # a byte for each token of a split: its role, and whether it counts


class NotedSplit(PackedSplit):
    """A split of conversations, packed; knows the role of each token, and whether it counts."""

    def __init__(self, split: Split, index: Index, sequence_length: int) -> None:
        """Raises UserError when the notes on its tokens are missing or damaged."""
        super().__init__(
            split, index, begin=None, end=None, cross_document_attention=False, sequence_length=sequence_length
        )
        lengths = np.asarray(split.documents["tokens"], np.int64)
        self._firsts = np.append(0, np.cumsum(lengths))
        path = split.local / NOTES.format(split=split.name)
        try:
            self._notes = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} is missing or damaged: {error}; {HOW_TO_FIX}") from None
        if self._notes.shape != (int(self._firsts[-1]),) or self._notes.dtype != np.uint8:
            found = f"{self._notes.shape} {self._notes.dtype}"
            raise UserError(f"{path} is damaged: {found}, expected {self._firsts[-1]} bytes; {HOW_TO_FIX}")

    def fill(self, batch: Batch, row: int, spans: list[Span]) -> None:
        """See `PackedSplit`; a target has its weight from the notes."""
        super().fill(batch, row, spans)
        if "weights" in batch:
            column = 0
            for span in spans:
                stop = column + span.stop - span.start
                batch["weights"][row, column:stop] = self.notes(span) >= COUNTS
                column = stop

    def notes(self, span: Span) -> np.ndarray:
        """The notes on the targets of a span, uint8 [pairs]."""
        first = int(self._firsts[span.document]) + 1
        return np.asarray(self._notes[first + span.start : first + span.stop])

    def num_targets(self, spans: list[Span]) -> int:
        """See `PackedSplit`."""
        return sum(int((self.notes(span) >= COUNTS).sum()) for span in spans)


class ConversationBatches(PackedBatches[Conversations]):
    """See `Batches`: the same fields, and weights of 0 for targets that do not count."""

    def _open_sources(self) -> list[PackedSplit]:
        return [_open(self.dataset, self.data, self.split)]

    def _source_weights(self) -> list[float]:
        return [1.0]

    def spans(self, n: int, row: int) -> list[tuple[Span, np.ndarray]]:
        """The conversations of a row of batch n, each with the notes on its targets."""
        source, spans = self._spans(n, row)
        split = self._sources[source]
        assert isinstance(split, NotedSplit)
        return [(span, split.notes(span)) for span in spans]

    def document_name(self, document: int) -> str:
        """The file and line of a conversation."""
        return self._sources[0].split.document_name(document)


class ConversationEvaluation(OnePass):
    """The rows of a split, once, in the order of the packing; as `train.data.batches.pipeline.EvaluationBatches`."""

    def __init__(
        self, dataset: Dataset, data: Conversations, split: str, limit: int | None, rows: Sequence[int] | None = None
    ) -> None:
        """Args: the dataset, the option, the split, the most batches, the rows of this host."""
        self._source, self._data, self._end = _open(dataset, data, split), data, dataset.tokenizer.end_of_document
        super().__init__(self._source.index.num_rows, data.batch_size, limit, rows, data.sequence_length, data.prefetch)

    @functools.cached_property
    def coverage(self) -> Coverage:
        """The counted targets; they stand for no bytes, because most bytes are those of the template."""
        counted = ends = 0
        for row in range(min(self.num_batches * self._data.batch_size, self._source.index.num_rows)):
            for span in self._source.index.spans(row, 0):
                tokens = self._source.split.tokens(span.document, span.start + 1, span.stop + 1)
                counts = self._source.notes(span) >= COUNTS
                counted += int(counts.sum())
                ends += 0 if self._end is None else int((counts & (tokens == self._end)).sum())
        return Coverage(tokens=counted - ends, end_tokens=ends)

    def batch(self, n: int) -> Batch:
        """The given rows of batch n; rows past the end are padding."""
        numbers = [n * self._data.batch_size + row for row in self._rows]
        known = self._source.index.num_rows
        rows = [(0, self._source.index.spans(number, 0) if number < known else []) for number in numbers]
        return fill_batch([self._source], rows, self._data.sequence_length, tuple(FIELDS))


def _open(dataset: Dataset, data: Conversations, name: str) -> NotedSplit:
    """A split of the dataset, packed. Raises UserError when it is damaged."""
    (split,) = dataset.split(name)
    _ = split.reader  # checks the sizes of the shards
    lengths = np.asarray(split.documents["tokens"], np.int64) - 1
    if isinstance(data.packing, BestFit):
        index = open_index(split.local, name, lengths, False, data.packing, data.sequence_length, data.seed)
    else:
        numbers = np.arange(len(lengths))
        index = BestFitIndex(np.arange(len(lengths) + 1), numbers, np.zeros_like(numbers), lengths)
    return NotedSplit(split, index, data.sequence_length)
