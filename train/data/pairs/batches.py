"""Batches of pairs: batch n is a pure function of the data, the seed and n.

The targets [rows, T] are the ids of a target, with its mark of the end; the tokens are the same one place later, after
a first one for which the model puts its start token (`train.objectives.next_token.stream_of_batch`); the weights are 1
where there is a target. The source is [rows, S], and its documents are `PADDING` after its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from model.encoder.source import PADDING
from model.errors import UserError
from model.options.words import nearest
from train.data.batches.coverage import Coverage
from train.data.batches.order import row_order
from train.data.batches.prefetch import EndlessBatches, read_ahead
from train.data.batches.rows import Batch, DocumentSpan
from train.data.pairs.option import SOURCE_FIELDS, Pairs
from train.data.pairs.preparing import StoredPairs
from train.data.shards.dataset import Dataset

FORMATS = {"tokens": np.int32, "targets": np.int32, "weights": np.float32}
FORMATS |= {"source": np.int32, "source_segment_ids": np.int32}


class _Filler:
    """Makes the fields of pairs of a split."""

    def __init__(self, dataset: Dataset, data: Pairs, split: str, fields: Sequence[str] | None) -> None:
        self.data, self.tokenizer = data, dataset.tokenizer
        wanted = FORMATS if fields is None else fields
        self.fields = tuple(name for name in dict.fromkeys(wanted) if name not in ("segment_ids", "positions"))
        for name in self.fields:
            if name not in FORMATS:
                raise UserError(f"no field of pairs is called {name!r}; {nearest(name, FORMATS)}")
        self.stored = StoredPairs(dataset.folder, split)

    def batch(self, numbers: Sequence[int], wanted: Sequence[int]) -> Batch:
        """The wanted rows of a batch whose rows have these numbers in the split; -1 stands for a row of padding."""
        lengths = {
            name: self.data.source_length if name in SOURCE_FIELDS else self.data.sequence_length for name in FORMATS
        }
        arrays = {name: np.zeros((len(wanted), lengths[name]), FORMATS[name]) for name in FORMATS}
        for place, row in enumerate(wanted):
            if numbers[row] < 0:
                continue
            source, target = self.stored.sides(numbers[row])
            arrays["source"][place, : len(source)] = source
            arrays["source_segment_ids"][place, len(source) :] = PADDING
            arrays["tokens"][place, 1 : len(target)] = target[:-1]
            arrays["targets"][place, : len(target)] = target
            arrays["weights"][place, : len(target)] = 1
        return {name: arrays[name] for name in self.fields}


class PairBatches(EndlessBatches[Pairs]):
    """Endless batches; every epoch is a new seeded permutation of the pairs."""

    def __init__(
        self, dataset: Dataset, data: Pairs, split: str = "train", fields: Sequence[str] | None = None
    ) -> None:
        """Args: the dataset folder, the option, the name of the split, the fields to make (all by default)."""
        self.dataset, self.data, self.split = dataset, data, split
        self._filler = _Filler(dataset, data, split, fields)
        self.stored, self.fields = self._filler.stored, self._filler.fields
        self._order = row_order([len(self.stored)], [1.0], data.seed, split)

    def numbers(self, n: int) -> list[int]:
        """The numbers, in the split, of the pairs of global batch n."""
        first = self.data.rows_before(n)
        return [int(self._order[first + row][2]) for row in range(self.data.batch_size_at(n))]

    def rows(self, n: int, rows: Sequence[int] | None = None) -> Batch:
        """The given rows of global batch n, all of them by default."""
        return self._filler.batch(self.numbers(n), range(self.data.batch_size_at(n)) if rows is None else rows)

    def num_targets(self, n: int) -> int:
        """The number of counted targets in global batch n, over the rows of all hosts; reads no token."""
        return int(self.stored.pairs["target"][self.numbers(n)].sum())

    def documents(self, n: int, rows: Sequence[int] | None = None, characters: int = 60) -> list[DocumentSpan]:
        """A span for each target in batch n, with the beginning of its source."""
        found, numbers = [], self.numbers(n)
        for row in range(len(numbers)) if rows is None else rows:
            source, target = self.stored.sides(numbers[row])
            text = self._filler.tokenizer.decode(source[: characters + 8])[:characters]
            name, size = self.stored.name(numbers[row]), len(target)
            found.append(DocumentSpan(row, 0, size, 0, numbers[row], name, 0, size, size, text))
        return found


class PairEvaluation:
    """One pass over a split in the order of its rows; the last batch is padded. Iteration reads ahead."""

    def __init__(
        self,
        dataset: Dataset,
        data: Pairs,
        split: str = "validation",
        limit: int | None = None,
        rows: Sequence[int] | None = None,
        fields: Sequence[str] | None = None,
    ) -> None:
        """Args: the dataset folder, the option, the split, the most batches, the rows of this host, the fields."""
        self.data = data
        self._filler = _Filler(dataset, data, split, fields)
        self.stored = self._filler.stored
        self._rows = range(data.batch_size) if rows is None else rows
        available = -(-len(self.stored) // data.batch_size)
        self.num_batches = available if limit is None else min(available, limit)

    @property
    def coverage(self) -> Coverage:
        """The counted targets of all batches."""
        return Coverage(tokens=int(self.stored.pairs["target"][: self.num_batches * self.data.batch_size].sum()))

    def batch(self, n: int) -> Batch:
        """Batch n of `num_batches`."""
        first, count = n * self.data.batch_size, len(self.stored)
        numbers = [i if i < count else -1 for i in range(first, first + self.data.batch_size)]
        return self._filler.batch(numbers, self._rows)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        tokens = max(1, len(self._rows)) * (self.data.sequence_length + self.data.source_length)
        return read_ahead(self.batch, range(self.num_batches), tokens, min(4, self.data.prefetch))
