"""Batches of data that are not packed: a row of a split is a row of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from model.errors import UserError
from model.options.words import nearest
from train.data.batches.order import row_order
from train.data.batches.prefetch import EndlessBatches, OnePass, Option

if TYPE_CHECKING:
    from train.data.batches.rows import Batch


class RowFiller(Protocol):
    """Makes the fields of the rows of a split.

    Attributes:
      fields: the names of the fields.
    """

    fields: tuple[str, ...]

    def batch(self, numbers: Sequence[int], wanted: Sequence[int]) -> Batch:
        """The wanted rows of a batch whose rows have these numbers in the split; -1 stands for a row of padding."""


def check_row_fields(names: Iterable[str], known: Iterable[str], data: str) -> tuple[str, ...]:
    """The fields to make, each once, for `data` with the known fields. Raises UserError for another one.

    Segments and positions are left out: a text ends before its padding, which no token of it sees.
    """
    fields = tuple(name for name in dict.fromkeys(names) if name not in ("segment_ids", "positions"))
    for name in fields:
        if name not in known:
            raise UserError(f"no field of {data} is called {name!r}; {nearest(name, list(known))}")
    return fields


class UnpackedBatches(EndlessBatches[Option]):
    """Endless batches with the methods of `train.data.batches.pipeline.Batches`.

    Every epoch is a new seeded permutation of the rows.
    """

    def __init__(self, data: Option, split: str, filler: RowFiller, num_rows: int, seed: int) -> None:
        """Args: the option, the split's name, the maker of its fields, the number of its rows, the order's seed."""
        self.data, self.split, self._filler, self.fields = data, split, filler, filler.fields
        self._order: Any = row_order([num_rows], [1.0], seed, split)

    def numbers(self, n: int) -> list[int]:
        """The numbers, in the split, of the rows of global batch n."""
        first = self.data.rows_before(n)
        return [int(self._order[first + row][2]) for row in range(self.data.batch_size_at(n))]

    def rows(self, n: int, rows: Sequence[int] | None = None) -> Batch:
        """The given rows of global batch n, all of them by default."""
        return self._filler.batch(self.numbers(n), range(self.data.batch_size_at(n)) if rows is None else rows)


class UnpackedEvaluation(OnePass):
    """One pass over a split in the order of its rows; the last batch is padded. Iteration reads ahead."""

    def __init__(
        self,
        filler: RowFiller,
        num_rows: int,
        batch_size: int,
        limit: int | None,
        rows: Sequence[int] | None,
        tokens: int,
        prefetch: int,
    ) -> None:
        """Args: the maker of the fields, then those of `OnePass`."""
        super().__init__(num_rows, batch_size, limit, rows, tokens, prefetch)
        self._filler, self._num_rows, self._batch_size = filler, num_rows, batch_size

    def numbers(self, n: int) -> list[int]:
        """The numbers of the rows of batch n; -1 for padding."""
        first = n * self._batch_size
        return [i if i < self._num_rows else -1 for i in range(first, first + self._batch_size)]

    def batch(self, n: int) -> Batch:
        """Batch n of `num_batches`."""
        return self._filler.batch(self.numbers(n), self._rows)
