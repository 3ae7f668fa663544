"""Batches that a task makes: batch n has the sequences from n * batch_size on, each made from its number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from train.data.batches.coverage import Coverage
from train.data.batches.prefetch import EndlessBatches
from train.data.batches.rows import FIELDS, Batch, DocumentSpan, check_fields
from train.data.generated import Generated
from train.evaluation.probes.interface import generators


class GeneratedBatches(EndlessBatches[Generated]):
    """Endless batches with the fields and the methods of `train.data.batches.pipeline.Batches`."""

    def __init__(self, data: Generated, split: str = "train", fields: Sequence[str] = tuple(FIELDS)) -> None:
        """Args: the option, the name of the split, the fields to make."""
        self.fields = check_fields(fields)
        self.data, self.split, self._task = data, split, data.task.for_split(split)

    def rows(self, n: int, rows: Sequence[int] | None = None) -> Batch:
        """The given rows of global batch n, all of them by default."""
        wanted = range(self.data.batch_size) if rows is None else rows
        numbers = [n * self.data.batch_size + row for row in wanted]
        made = self._task.sequences(generators(self.data.seed, self.split, numbers))
        shape = made.tokens.shape
        all_fields = made._asdict() | {
            "segment_ids": np.ones(shape, np.int32),
            "positions": np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
            "text": np.ones(shape, np.int8),
        }
        return {name: all_fields[name] for name in self.fields}

    def num_targets(self, n: int) -> int:
        """The number of counted targets in global batch n, over the rows of all hosts."""
        made = self._task.sequences(
            generators(self.data.seed, self.split, range(n * self.data.batch_size, (n + 1) * self.data.batch_size))
        )
        return int((made.weights > 0).sum())

    def documents(self, n: int, rows: Sequence[int] | None = None, characters: int = 60) -> list[DocumentSpan]:
        """A span for each row of batch n, which is a sequence of its own, with the beginning of its tokens."""
        found = []
        for row in range(self.data.batch_size) if rows is None else rows:
            number, length = n * self.data.batch_size + row, self.data.sequence_length
            tokens = self._task.sequences(generators(self.data.seed, self.split, [number])).tokens[0]
            found.append(
                DocumentSpan(
                    row,
                    0,
                    length,
                    0,
                    number,
                    f"sequence {number}",
                    0,
                    length,
                    length,
                    " ".join(map(str, tokens))[:characters],
                )
            )
        return found


class GeneratedEvaluation:
    """The batches of a split, once; as `train.data.batches.pipeline.EvaluationBatches`."""

    def __init__(
        self, data: Generated, split: str = "validation", limit: int | None = None, rows: Sequence[int] | None = None
    ) -> None:
        """Args: the option, the split, the most batches, the rows of this host."""
        self._batches, self._rows, self._prefetch = GeneratedBatches(data, split), rows, data.prefetch
        self.num_batches = data.validation_batches if limit is None else min(limit, data.validation_batches)

    @property
    def coverage(self) -> Coverage:
        """The counted targets; they stand for no bytes."""
        return Coverage(tokens=sum(map(self._batches.num_targets, range(self.num_batches))))

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        return self._batches.iterator(0, range if self._rows is None else self._rows, self.num_batches)
