"""Reading ahead: a thread computes the next batches while the current batch is used."""

from __future__ import annotations

import abc
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, SupportsIndex, TypeVar

if TYPE_CHECKING:
    from train.data.batches.rows import Batch
    from train.data.interface import DataOption

T = TypeVar("T")
Option = TypeVar("Option", bound="DataOption")
# Batches are computed in blocks of about this many tokens.
BLOCK_TOKENS = 1 << 14


# The largest number of elements of a range.
ENDLESS = sys.maxsize


class EndlessBatches(abc.ABC, Generic[Option]):
    """Endless batches, read ahead; a subclass has `rows`, a pure function of n, and `data`, which knows their sizes."""

    data: Option

    @abc.abstractmethod
    def rows(self, n: int, rows: Sequence[int] | None = None) -> Batch:
        """The given rows of global batch n, all of them by default."""

    def iterator(
        self,
        start: int = 0,
        rows: Sequence[int] | Callable[[int], Sequence[int]] = range,
        stop: int | None = None,
    ) -> Iterator[Batch]:
        """Batches start, start + 1, ...; a thread makes `data.prefetch` of them ahead until the iterator is closed.

        `rows` are the wanted rows, or a function that returns them for a batch of so many rows; all by default.
        """
        data = self.data
        wanted = {size: rows(size) if callable(rows) else rows for size in data.batch_sizes()}
        numbers = range(start, ENDLESS if stop is None else stop)
        tokens = max(1, data.texts_of_row * max(map(len, wanted.values()))) * data.sequence_length
        return read_ahead(lambda n: self.rows(n, wanted[data.batch_size_at(n)]), numbers, tokens, data.prefetch)


class OnePass(abc.ABC):
    """One pass over the rows of a split, read ahead; the last batch is padded. A subclass has `batch`.

    Attributes:
      num_batches: the number of batches.
    """

    def __init__(
        self, num_rows: int, batch_size: int, limit: int | None, rows: Sequence[int] | None, tokens: int, prefetch: int
    ) -> None:
        """Prepares the pass.

        Args:
          num_rows: the rows of the split.
          batch_size: those of a batch, of all hosts together.
          limit: the most batches; None for all.
          rows: the rows of a batch that this host has; None for all.
          tokens: the tokens of a row.
          prefetch: the number of batches that may be read ahead, of which at most four are.
        """
        self._rows = range(batch_size) if rows is None else rows
        available = -(-num_rows // batch_size)
        self.num_batches = available if limit is None else min(available, limit)
        self._tokens, self._prefetch = max(1, len(self._rows)) * tokens, min(4, prefetch)

    @abc.abstractmethod
    def batch(self, n: int) -> Batch:
        """The rows of this host of batch n of `num_batches`; rows past the end are padding."""

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        return read_ahead(self.batch, range(self.num_batches), self._tokens, self._prefetch)


class _Blocks(Generic[T]):
    """A function of n as a random-access source for grain: element i lists its values for the i-th `size` numbers."""

    def __init__(self, function: Callable[[int], T], numbers: range, size: int) -> None:
        self._function, self._numbers, self._size = function, numbers, size

    def __len__(self) -> int:
        return -(-len(self._numbers) // self._size)

    def __getitem__(self, i: SupportsIndex) -> list[T]:
        first = int(i) * self._size
        return [self._function(n) for n in self._numbers[first : first + self._size]]


def read_ahead(function: Callable[[int], T], numbers: range, tokens: int, prefetch: int) -> Iterator[T]:
    """Yields the values of a function of n in order; a grain thread computes about `prefetch` of them ahead.

    A batch has `tokens` tokens. Small batches are computed several at a time: waking a thread costs more than a batch.
    """
    import grain

    size = max(1, min(prefetch, BLOCK_TOKENS // tokens))
    # One thread: batches are small pieces of Python and numpy, which several threads would only contend for.
    options = grain.ReadOptions(num_threads=1 if prefetch else 0, prefetch_buffer_size=-(-prefetch // size))
    blocks = iter(grain.MapDataset.source(_Blocks(function, numbers, size)).to_iter_dataset(options))
    try:
        for block in blocks:
            yield from block
    finally:
        blocks.close()
