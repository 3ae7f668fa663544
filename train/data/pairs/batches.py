"""Batches of pairs: batch n is a pure function of the data, the seed and n.

The targets [rows, T] are the ids of a target, with its mark of the end; the tokens are the same one place later, after
a first one for which the model puts its start token (`train.objectives.next_token.stream_of_batch`); the weights are 1
where there is a target. The source is [rows, S], and its documents are `PADDING` after its end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.encoder.source import PADDING
from train.data.batches.coverage import Coverage
from train.data.batches.rows import Batch, DocumentSpan
from train.data.batches.unpacked import UnpackedBatches, UnpackedEvaluation, check_row_fields
from train.data.pairs.option import SOURCE_FIELDS, Pairs
from train.data.pairs.preparing import StoredPairs
from train.data.shards.dataset import Dataset

FORMATS = {"tokens": np.int32, "targets": np.int32, "weights": np.float32}
FORMATS |= {"source": np.int32, "source_segment_ids": np.int32}


def rows_of_pairs(
    sides: Sequence[tuple[np.ndarray, np.ndarray] | None], sources: int, targets: int, fields: Sequence[str]
) -> Batch:
    """Returns these fields of rows, each of the ids of a source and of a target; None stands for a row of padding.

    Sources have room for `sources` tokens, targets for `targets`.
    """
    lengths = {name: sources if name in SOURCE_FIELDS else targets for name in FORMATS}
    arrays = {name: np.zeros((len(sides), lengths[name]), FORMATS[name]) for name in FORMATS}
    for row, pair in enumerate(sides):
        if pair is None:
            continue
        source, target = pair
        arrays["source"][row, : len(source)] = source
        arrays["source_segment_ids"][row, len(source) :] = PADDING
        arrays["tokens"][row, 1 : len(target)] = target[:-1]
        arrays["targets"][row, : len(target)] = target
        arrays["weights"][row, : len(target)] = 1
    return {name: arrays[name] for name in fields}


class _Filler:
    """Makes the fields of pairs of a split."""

    def __init__(self, dataset: Dataset, data: Pairs, split: str, fields: Sequence[str] | None) -> None:
        self.data, self.fields = data, check_row_fields(FORMATS if fields is None else fields, FORMATS, "pairs")
        self.stored = StoredPairs(dataset.folder, split)

    def batch(self, numbers: Sequence[int], wanted: Sequence[int]) -> Batch:
        """The wanted rows of a batch whose rows have these numbers in the split; -1 stands for a row of padding."""
        sides = [self.stored.sides(numbers[row]) if numbers[row] >= 0 else None for row in wanted]
        return rows_of_pairs(sides, self.data.source_length, self.data.sequence_length, self.fields)


class PairBatches(UnpackedBatches[Pairs]):
    """Endless batches of pairs."""

    def __init__(
        self, dataset: Dataset, data: Pairs, split: str = "train", fields: Sequence[str] | None = None
    ) -> None:
        """Args: the dataset folder, the option, the name of the split, the fields to make (all by default)."""
        filler = _Filler(dataset, data, split, fields)
        super().__init__(data, split, filler, len(filler.stored), data.seed)
        self.dataset, self.stored = dataset, filler.stored

    def num_targets(self, n: int) -> int:
        """The number of counted targets in global batch n, over the rows of all hosts; reads no token."""
        return int(self.stored.pairs["target"][self.numbers(n)].sum())

    def documents(self, n: int, rows: Sequence[int] | None = None, characters: int = 60) -> list[DocumentSpan]:
        """A span for each target in batch n, with the beginning of its source."""
        found, numbers = [], self.numbers(n)
        for row in range(len(numbers)) if rows is None else rows:
            source, target = self.stored.sides(numbers[row])
            text = self.dataset.tokenizer.decode(source[: characters + 8])[:characters]
            name, size = self.stored.name(numbers[row]), len(target)
            found.append(DocumentSpan(row, 0, size, 0, numbers[row], name, 0, size, size, text))
        return found


class PairEvaluation(UnpackedEvaluation):
    """One pass over pairs."""

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
        filler = _Filler(dataset, data, split, fields)
        tokens, count = data.sequence_length + data.source_length, len(filler.stored)
        super().__init__(filler, count, data.batch_size, limit, rows, tokens, data.prefetch)
        self.data, self.stored = data, filler.stored

    @property
    def coverage(self) -> Coverage:
        """The counted targets of all batches."""
        return Coverage(tokens=int(self.stored.pairs["target"][: self.num_batches * self.data.batch_size].sum()))
