"""Which key each query may see, as boolean arrays; True means visible.

An index is a token's place in the sequence (or its slot in the cache), a position its place in its document. A segment
id numbers the documents packed into a sequence from 1; 0 is padding. Every pattern lies within the causal mask.

Beltagy et al. 2020, "Longformer", section 3.1 (sliding window); Child et al. 2019, "Generating Long Sequences with
Sparse Transformers", section 4.3 (strided and fixed). Xiao et al. 2024, "Efficient Streaming Language Models with
Attention Sinks", section 3.2 (first keys kept). Chunks are Llama 4's local layers.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Everything:
    """Every key up to the query's own position."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlidingWindow:
    """The last `size` keys, the query's own among them, and the `first` keys of the document (attention sinks)."""

    size: int
    first: int = 0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        yield from _at_least_one(size=self.size)
        if self.first < 0:
            yield "first", f"must be at least 0, got {self.first}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunked:
    """The keys of the query's own chunk: positions 0 to size - 1 are the first one."""

    size: int

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        yield from _at_least_one(size=self.size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strided:
    """The last `stride` keys before the query, and of all others those a multiple of `stride` back.

    Both patterns of the paper's strided attention at once, as one head that attends to their union.
    """

    stride: int

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        yield from _at_least_one(stride=self.stride)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed:
    """The keys of the query's own block of `stride`, and the last `summaries` keys of every block before."""

    stride: int
    summaries: int = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        yield from _at_least_one(stride=self.stride, summaries=self.summaries)
        if self.summaries > self.stride >= 1:
            yield "summaries", f"a block of {self.stride} keys has no {self.summaries} last ones"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSparse:
    """Whole blocks of keys: the first `first` of the document, and the last `last`, the query's own among them.

    Zaheer et al. 2020, "Big Bird", section 2: its global and window blocks, causal, without the random ones.
    """

    block: int
    first: int = 1
    last: int = 2

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        yield from _at_least_one(block=self.block, last=self.last)
        if self.first < 0:
            yield "first", f"must be at least 0, got {self.first}"


Pattern = Everything | SlidingWindow | Chunked | Strided | Fixed | BlockSparse


def _at_least_one(**fields: int) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if value < 1:
            yield name, f"must be at least 1, got {value}"


def causal(query_BT: jax.Array, key_BS: jax.Array) -> jax.Array:
    """A query sees keys at its own index and before, (B, T, S); a batch of 1 broadcasts."""
    return query_BT[:, :, None] >= key_BS[:, None, :]


def same_segment(query_BT: jax.Array, key_BS: jax.Array) -> jax.Array:
    """A query sees keys of its own document only, (B, T, S)."""
    return query_BT[:, :, None] == key_BS[:, None, :]


def documents(segment_ids_BT: jax.Array | None) -> jax.Array | None:
    """The number of each token's document in its row, from 0; the tokens of a document lie side by side."""
    if segment_ids_BT is None:
        return None
    changes_BT = jnp.diff(segment_ids_BT, prepend=segment_ids_BT[:, :1]) != 0
    return jnp.cumsum(changes_BT, axis=1, dtype=jnp.int32)


def visible(pattern: Pattern, query_BT: jax.Array, key_BS: jax.Array) -> jax.Array | None:
    """Which keys of those that the causal mask lets through a pattern keeps, by positions, (B, T, S); None for all."""
    q, k = query_BT[:, :, None], key_BS[:, None, :]
    match pattern:
        case Everything():
            return None
        case SlidingWindow(size=size, first=first):
            return (q - k < size) | (k < first) if first else q - k < size
        case Chunked(size=size):
            return q // size == k // size
        case Strided(stride=stride):
            return (q - k < stride) | ((q - k) % stride == 0)
        case Fixed(stride=stride, summaries=summaries):
            return (q // stride == k // stride) | (k % stride >= stride - summaries)
        case BlockSparse(block=block, first=first, last=last):
            return (q // block - k // block < last) | (k < first * block)
    raise AssertionError(pattern)


def reach(pattern: Pattern) -> int | None:
    """How many keys, its own the last of them, a query's visible ones lie among at most; None for all before it."""
    match pattern:
        case SlidingWindow(size=size, first=0) | Chunked(size=size):
            return size
        case BlockSparse(block=block, first=0, last=last):
            return block * last
    return None


def pairs(pattern: Pattern, length: int) -> int:
    """How many pairs of a query and a key a pattern lets through in a sequence of `length` tokens."""
    t = np.arange(length)
    match pattern:
        case Everything():
            seen = t + 1
        case SlidingWindow(size=size, first=first):
            seen = np.minimum(t + 1, size) + np.minimum(first, np.maximum(0, t + 1 - size))
        case Chunked(size=size):
            seen = t % size + 1
        case Strided(stride=stride):
            seen = np.minimum(t + 1, stride) + t // stride
        case Fixed(stride=stride, summaries=summaries):
            seen = t % stride + 1 + t // stride * summaries
        case BlockSparse(block=block, first=first, last=last):
            start = np.maximum(0, (t // block - last + 1) * block)
            seen = t - start + 1 + np.minimum(start, first * block)
    return int(seen.sum())
