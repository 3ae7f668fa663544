"""Reading ahead: a thread computes the next batches while the current batch is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, SupportsIndex, TypeVar

T = TypeVar("T")
# Batches are computed in blocks of about this many tokens.
BLOCK_TOKENS = 1 << 14


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
