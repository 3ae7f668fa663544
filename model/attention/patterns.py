"""The patterns of keys that a layer's queries see, as options of a config.

A pattern is about pairs of tokens of one document, by their positions in it: whether the later one sees the earlier
one. What else a query may see, the order of tokens above all, is said in visibility.py.

Beltagy et al. 2020, "Longformer", section 3.1 (sliding window); Child et al. 2019, "Generating Long Sequences with
Sparse Transformers", section 4.3 (strided and fixed). Xiao et al. 2024, "Efficient Streaming Language Models with
Attention Sinks", section 3.2 (first keys kept). Chunks are Llama 4's local layers.
"""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np


class Pairs:
    """What every pattern answers; each says which pairs it lets through, and the rest where it is not the default."""

    def visible(self, later: jax.Array, earlier: jax.Array) -> jax.Array | None:
        """Which pairs are let through, by the positions of the later and of the earlier token; None for all."""
        return None

    def reach(self) -> int | None:
        """The number of most recent keys, the query's own among them, that contains every key it sees; None for all."""
        return None

    def seen(self, t: np.ndarray) -> np.ndarray:
        """How many keys a causal query at each of the positions `t` sees."""
        return t + 1

    def pairs(self, length: int) -> int:
        """How many pairs of a query and a key a causal sequence of `length` tokens has."""
        return int(self.seen(np.arange(length)).sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Everything(Pairs):
    """Every key up to the query's own position."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlidingWindow(Pairs):
    """The last `size` keys, the query's own among them, and the `first` keys of the document (attention sinks)."""

    size: int
    first: int = 0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _at_least_one(size=self.size)
        if self.first < 0:
            yield "first", f"must be at least 0, got {self.first}"

    def visible(self, later: jax.Array, earlier: jax.Array) -> jax.Array:
        """See `Pairs`."""
        near = later - earlier < self.size
        return near | (earlier < self.first) if self.first else near

    def reach(self) -> int | None:
        """See `Pairs`."""
        return None if self.first else self.size

    def seen(self, t: np.ndarray) -> np.ndarray:
        """See `Pairs`."""
        return np.minimum(t + 1, self.size) + np.minimum(self.first, np.maximum(0, t + 1 - self.size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunked(Pairs):
    """The keys of the query's own chunk: positions 0 to size - 1 are the first one."""

    size: int

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _at_least_one(size=self.size)

    def visible(self, later: jax.Array, earlier: jax.Array) -> jax.Array:
        """See `Pairs`."""
        return later // self.size == earlier // self.size

    def reach(self) -> int:
        """See `Pairs`."""
        return self.size

    def seen(self, t: np.ndarray) -> np.ndarray:
        """See `Pairs`."""
        return t % self.size + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strided(Pairs):
    """The last `stride` keys before the query, and of all others those a multiple of `stride` back.

    Both patterns of the paper's strided attention at once, as one head that attends to their union.
    """

    stride: int

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _at_least_one(stride=self.stride)

    def visible(self, later: jax.Array, earlier: jax.Array) -> jax.Array:
        """See `Pairs`."""
        return (later - earlier < self.stride) | ((later - earlier) % self.stride == 0)

    def seen(self, t: np.ndarray) -> np.ndarray:
        """See `Pairs`."""
        return np.minimum(t + 1, self.stride) + t // self.stride


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed(Pairs):
    """The keys of the query's own block of `stride`, and the last `summaries` keys of every block before."""

    stride: int
    summaries: int = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _at_least_one(stride=self.stride, summaries=self.summaries)
        if self.summaries > self.stride >= 1:
            yield "summaries", f"a block of {self.stride} keys has no {self.summaries} last ones"

    def visible(self, later: jax.Array, earlier: jax.Array) -> jax.Array:
        """See `Pairs`."""
        own = later // self.stride == earlier // self.stride
        return own | (earlier % self.stride >= self.stride - self.summaries)

    def seen(self, t: np.ndarray) -> np.ndarray:
        """See `Pairs`."""
        return t % self.stride + 1 + t // self.stride * self.summaries


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSparse(Pairs):
    """Whole blocks of keys: the first `first` of the document, and the last `last`, the query's own among them.

    Zaheer et al. 2020, "Big Bird", section 2: its global and window blocks, causal, without the random ones.
    """

    block: int
    first: int = 1
    last: int = 2

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _at_least_one(block=self.block, last=self.last)
        if self.first < 0:
            yield "first", f"must be at least 0, got {self.first}"

    def visible(self, later: jax.Array, earlier: jax.Array) -> jax.Array:
        """See `Pairs`."""
        near = later // self.block - earlier // self.block < self.last
        return near | (earlier < self.first * self.block)

    def reach(self) -> int | None:
        """See `Pairs`."""
        return None if self.first else self.block * self.last

    def seen(self, t: np.ndarray) -> np.ndarray:
        """See `Pairs`."""
        start = np.maximum(0, (t // self.block - self.last + 1) * self.block)
        return t - start + 1 + np.minimum(start, self.first * self.block)


Pattern = Everything | SlidingWindow | Chunked | Strided | Fixed | BlockSparse


def _at_least_one(**fields: int) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if value < 1:
            yield name, f"must be at least 1, got {value}"
