"""Attention patterns: the keys that a layer's queries see, as options of a config.

For two tokens of one document, a pattern says by their positions whether the later token sees the earlier one. All
other conditions, above all the causal order of tokens, are in model/kernels/visibility.py.

Beltagy et al. 2020, "Longformer", section 3.1 (sliding window); Child et al. 2019, "Generating Long Sequences with
Sparse Transformers", section 4.3 (strided and fixed). Xiao et al. 2024, "Efficient Streaming Language Models with
Attention Sinks", section 3.2 (first keys kept). Chunks are Llama 4's local layers.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import jax
import numpy as np


class AttentionPattern:
    """The interface of patterns. A pattern overrides `visible`, and the other methods where their default is wrong."""

    def visible(self, later: jax.Array, earlier: jax.Array) -> jax.Array | None:
        """Returns which pairs are visible, from the positions of the later and of the earlier token; None for all."""
        return None

    def reach(self) -> int | None:
        """Returns R if a query sees only keys among the last R, its own key included; None if it may see any key."""
        return None

    has_groups: ClassVar[bool] = False  # whether `group` returns numbers
    divides: ClassVar[bool] = False  # whether `visible` divides positions, for kernels that cannot

    @property
    def depends_on_distance_alone(self) -> bool:
        """Whether `visible` depends on the difference of the two positions alone."""
        return False

    def group(self, position: jax.Array) -> jax.Array | None:
        """Returns a number for each position if tokens see each other where their numbers are equal; None otherwise."""
        return None

    def num_visible_keys(self, t: np.ndarray) -> np.ndarray:
        """Returns the number of keys that a causal query at each of the positions `t` sees."""
        return t + 1

    def num_visible_pairs(self, length: int) -> int:
        """Returns the number of visible pairs of a query and a key in a causal sequence of `length` tokens."""
        return int(self.num_visible_keys(np.arange(length)).sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Everything(AttentionPattern):
    """Every key up to the query's own position."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlidingWindow(AttentionPattern):
    """The last `size` keys, the query's own among them, and the `first` keys of the document (attention sinks)."""

    size: int
    first: int = 0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _at_least_one(size=self.size)
        if self.first < 0:
            yield "first", f"must be at least 0, got {self.first}"

    def visible(self, later: jax.Array, earlier: jax.Array) -> jax.Array:
        """See `AttentionPattern`."""
        near = later - earlier < self.size
        return near | (earlier < self.first) if self.first else near

    def reach(self) -> int | None:
        """See `AttentionPattern`."""
        return None if self.first else self.size

    @property
    def depends_on_distance_alone(self) -> bool:
        """See `AttentionPattern`."""
        return not self.first

    def num_visible_keys(self, t: np.ndarray) -> np.ndarray:
        """See `AttentionPattern`."""
        return np.minimum(t + 1, self.size) + np.minimum(self.first, np.maximum(0, t + 1 - self.size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunked(AttentionPattern):
    """The keys of the query's own chunk: positions 0 to size - 1 are the first one."""

    size: int
    has_groups: ClassVar[bool] = True
    divides: ClassVar[bool] = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _at_least_one(size=self.size)

    def visible(self, later: jax.Array, earlier: jax.Array) -> jax.Array:
        """See `AttentionPattern`."""
        return later // self.size == earlier // self.size

    def reach(self) -> int:
        """See `AttentionPattern`."""
        return self.size

    def group(self, position: jax.Array) -> jax.Array:
        """See `AttentionPattern`."""
        return position // self.size

    def num_visible_keys(self, t: np.ndarray) -> np.ndarray:
        """See `AttentionPattern`."""
        return t % self.size + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strided(AttentionPattern):
    """The last `stride` keys, the query's own among them, and every key at a distance of a multiple of `stride`.

    Each head attends to the union of both patterns of the paper's strided attention.
    """

    stride: int
    divides: ClassVar[bool] = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _at_least_one(stride=self.stride)

    def visible(self, later: jax.Array, earlier: jax.Array) -> jax.Array:
        """See `AttentionPattern`."""
        return (later - earlier < self.stride) | ((later - earlier) % self.stride == 0)

    @property
    def depends_on_distance_alone(self) -> bool:
        """See `AttentionPattern`."""
        return True

    def num_visible_keys(self, t: np.ndarray) -> np.ndarray:
        """See `AttentionPattern`."""
        return np.minimum(t + 1, self.stride) + t // self.stride


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed(AttentionPattern):
    """The keys of the query's own block of `stride`, and the last `summaries` keys of every earlier block."""

    stride: int
    summaries: int = 1
    divides: ClassVar[bool] = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _at_least_one(stride=self.stride, summaries=self.summaries)
        if self.summaries > self.stride >= 1:
            yield "summaries", f"a block of {self.stride} keys has no {self.summaries} last ones"

    def visible(self, later: jax.Array, earlier: jax.Array) -> jax.Array:
        """See `AttentionPattern`."""
        own = later // self.stride == earlier // self.stride
        return own | (earlier % self.stride >= self.stride - self.summaries)

    def num_visible_keys(self, t: np.ndarray) -> np.ndarray:
        """See `AttentionPattern`."""
        return t % self.stride + 1 + t // self.stride * self.summaries


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSparse(AttentionPattern):
    """Whole blocks of keys: the first `first` of the document, and the last `last`, the query's own among them.

    Zaheer et al. 2020, "Big Bird", section 2: its global and window blocks, causal, without the random ones.
    """

    block: int
    first: int = 1
    last: int = 2
    divides: ClassVar[bool] = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _at_least_one(block=self.block, last=self.last)
        if self.first < 0:
            yield "first", f"must be at least 0, got {self.first}"

    def visible(self, later: jax.Array, earlier: jax.Array) -> jax.Array:
        """See `AttentionPattern`."""
        near = later // self.block - earlier // self.block < self.last
        return near | (earlier < self.first * self.block)

    def reach(self) -> int | None:
        """See `AttentionPattern`."""
        return None if self.first else self.block * self.last

    def num_visible_keys(self, t: np.ndarray) -> np.ndarray:
        """See `AttentionPattern`."""
        start = np.maximum(0, (t // self.block - self.last + 1) * self.block)
        return t - start + 1 + np.minimum(start, self.first * self.block)


Pattern = Everything | SlidingWindow | Chunked | Strided | Fixed | BlockSparse


def _at_least_one(**fields: int) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if value < 1:
            yield name, f"must be at least 1, got {value}"
