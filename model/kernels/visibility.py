"""Which keys each query may see, as a value: structure that a kernel asks about, and the mask of one block at a time.

A query sees a key if all conditions of the value allow it: the order of tokens (causal, a prefix seen from both sides,
or none), the patterns (model/attention/patterns.py), the documents, and an array for all other conditions. The whole
mask (B, T, S) is made only on request.

An index numbers a token in its row, or its slot in a cache; a position numbers it in its document. The order and
the reach are about indices, patterns and prefixes about positions. A pattern holds for the later and the earlier of two
tokens; where queries see later tokens too, it holds in both directions.
"""

import dataclasses
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from model.attention.patterns import Everything, Pattern
from model.layout import AxisSharding


@struct.dataclass
class Coordinates:
    """Indices, positions and documents of the tokens of one side of attention, queries or keys.

    The batch of every array may be 1.

    Attributes:
      count: how many tokens a row has.
      start: the index of the first one if the indices are consecutive.
      index: (B, count), the index of each; None if they are consecutive.
      position: (B, count), the position of each; None if it is the index.
      segment_ids: (B, count), a number for the document of each; None if a row is one document.
      offset: a traced number to add to `start`, where a device or a loop has consecutive tokens of a longer row; None
        for 0.
      parts: how many equal parts the longer row is known to have, of which these tokens are one: `offset` is then one
        of 0, count, ..., (parts - 1) count. 1 where that is not known.
    """

    count: int = struct.field(pytree_node=False)
    start: int = struct.field(pytree_node=False, default=0)
    index: jax.Array | None = None
    position: jax.Array | None = None
    segment_ids: jax.Array | None = None
    offset: jax.Array | None = None
    parts: int = struct.field(pytree_node=False, default=1)

    @property
    def first(self) -> int | jax.Array:
        """The index of the first token if the indices are consecutive."""
        return self.start if self.offset is None else self.start + self.offset

    def indices(self) -> jax.Array:
        """The index of each token, int32 (B or 1, count)."""
        return self.first + jnp.arange(self.count, dtype=jnp.int32)[None] if self.index is None else self.index

    def positions(self) -> jax.Array:
        """The position of each token, int32 (B or 1, count)."""
        return self.indices() if self.position is None else self.position

    def sliced(self, start: int | jax.Array, count: int) -> "Coordinates":
        """Returns the `count` tokens from number `start` on; `start` may be traced, and must leave room for them."""
        cut = lambda x: None if x is None else _slice_axis(x, start, count, axis=1)  # noqa: E731
        arrays: dict[str, Any] = {"position": cut(self.position), "segment_ids": cut(self.segment_ids)}
        if self.index is not None:
            return Coordinates(count, self.start, cut(self.index), **arrays)
        if isinstance(start, int):
            return Coordinates(count, self.start + start, **arrays, offset=self.offset)
        return Coordinates(count, self.start, **arrays, offset=start if self.offset is None else self.offset + start)

    def of_device(self, split: AxisSharding) -> "Coordinates":
        """Returns the tokens of this device inside `shard_map`, which has split the arrays already."""
        if split.ways == 1:
            return self
        count = self.count // split.ways
        if self.index is not None:
            return dataclasses.replace(self, count=count)
        first = jax.lax.axis_index(split.mesh_axes) * count
        if self.offset is not None:
            return dataclasses.replace(self, count=count, offset=self.offset + first, parts=1)
        return dataclasses.replace(self, count=count, offset=first, parts=split.ways)

    def padded(self, count: int) -> "Coordinates":
        """Returns `count` tokens; the added tokens repeat the last one, or follow it."""
        pad = lambda x: None if x is None else jnp.pad(x, ((0, 0), (0, count - self.count)), mode="edge")  # noqa: E731
        return dataclasses.replace(
            self,
            count=count,
            parts=1,
            index=pad(self.index),
            position=pad(self.position),
            segment_ids=pad(self.segment_ids),
        )


@struct.dataclass
class Visibility:
    """Which of the keys each query sees.

    Attributes:
      queries, keys: their coordinates. Documents are compared if both sides have segment ids.
      causal: whether a query sees only keys at its own index and before, and those of a prefix.
      patterns: each of them must allow a pair of tokens.
      monotonic_positions: whether positions grow within a document at least as fast as indices, so that a pattern
        that reaches R positions back reaches at most R indices back. False if positions may start again without
        segment ids.
      consecutive_positions: whether the positions of neighbours in a document differ by one, so that a distance in
        positions is the same distance in indices. A kernel cannot read this from arrays.
      prefix: (B or 1, S or 1), the length of the prefix of the key's document: keys at positions below it are seen by
        every query of the document. None for none.
      extra_mask: (B or 1, T, S), False where a query does not see a key for any other reason; None for no such pair.
    """

    queries: Coordinates
    keys: Coordinates
    causal: bool = struct.field(pytree_node=False, default=True)
    patterns: tuple[Pattern, ...] = struct.field(pytree_node=False, default=())
    monotonic_positions: bool = struct.field(pytree_node=False, default=True)
    consecutive_positions: bool = struct.field(pytree_node=False, default=False)
    prefix: jax.Array | None = None
    extra_mask: jax.Array | None = None

    # ------------------------------------------------------------------------------------------------ composition

    def with_pattern(self, pattern: Pattern) -> "Visibility":
        """Returns the pairs of these that a pattern allows too."""
        return (
            self if isinstance(pattern, Everything) else dataclasses.replace(self, patterns=(*self.patterns, pattern))
        )

    def with_prefix(self, length: jax.Array | int) -> "Visibility":
        """Returns these, and in every document all pairs whose key lies in the prefix.

        Args:
          length: of the prefix: one number, (B,) one for each row, or (B, S) one for each key's document.
        """
        length = jnp.asarray(length, jnp.int32)
        return dataclasses.replace(self, prefix=length if length.ndim == 2 else length.reshape(-1, 1))

    def with_mask(self, mask_BTS: jax.Array) -> "Visibility":
        """Returns the pairs of these where an array (B or 1, T, S) is True too."""
        return dataclasses.replace(self, extra_mask=mask_BTS if self.extra_mask is None else self.extra_mask & mask_BTS)

    def with_keys(self, keys: Coordinates) -> "Visibility":
        """Returns the same for other keys, such as those of a cache."""
        return dataclasses.replace(self, keys=keys)

    # ----------------------------------------------------------------------------------------- structure for kernels

    @property
    def is_causal(self) -> bool:
        """Whether no query sees a key at a later index."""
        return self.causal and self.prefix is None

    @property
    def reach(self) -> int | None:
        """The most indices between a query and a key that it sees, plus one; None where there is no such bound."""
        reaches = [pattern.reach() for pattern in self.patterns]
        return min((r for r in reaches if r is not None), default=None) if self.monotonic_positions else None

    def key_span(self, start: int | jax.Array, stop: int | jax.Array) -> tuple[Any, Any]:
        """The first and the end of the keys among which queries `start` to `stop` see any; perhaps not all of them.

        For integers, integers: where an index is known to arrays alone, all keys. For traced numbers, traced ones.
        """
        count, is_static = self.keys.count, isinstance(start, int)
        clip = (lambda x: max(0, min(x, count))) if is_static else (lambda x: jnp.clip(x, 0, count))
        if not (self.indices_are_static if is_static else self.indices_are_consecutive):
            return clip(0), clip(count)
        first, last = (self.queries.first + x - self.keys.first for x in (start, stop - 1))
        reach, low, high = self.reach, clip(0), clip(count)
        if reach is not None:
            low, high = clip(first - reach + 1), clip(last + reach)
        return low, clip(last + 1) if self.is_causal else high

    @property
    def indices_are_consecutive(self) -> bool:
        """Whether the indices of queries and of keys are consecutive, from first ones that may be traced."""
        return self.queries.index is None and self.keys.index is None

    @property
    def indices_are_static(self) -> bool:
        """Whether the indices are known while tracing: a device's part of a row, for example, has traced ones."""
        return self.indices_are_consecutive and self.queries.offset is None and self.keys.offset is None

    @property
    def of_whole_row(self) -> "Visibility":
        """The same for the whole row of which the queries are one part, without the arrays of its other parts.

        It has the structure that a kernel must know while tracing; without such parts, it is this visibility.
        """
        queries = self.queries
        if queries.parts == 1:
            return self
        whole = dataclasses.replace(queries, count=queries.count * queries.parts, offset=None, parts=1)
        return dataclasses.replace(self, queries=whole)

    @property
    def skips_keys(self) -> bool:
        """Whether `key_span` of integers leaves out keys of some queries."""
        return self.indices_are_static and (self.is_causal or self.reach is not None)

    @property
    def positions_are_static(self) -> bool:
        """Whether the positions of queries and keys are known while tracing: they are the indices."""
        return self.indices_are_static and self.queries.position is None and self.keys.position is None

    @property
    def distances_are_static(self) -> bool:
        """Whether the difference of two positions of a document is known while tracing: it is that of the indices."""
        return self.positions_are_static or (self.indices_are_static and self.consecutive_positions)

    @property
    def has_documents(self) -> bool:
        """Whether rows hold documents that do not see each other."""
        return self.queries.segment_ids is not None and self.keys.segment_ids is not None

    # ---------------------------------------------------------------------------------------------------- arrays

    def sliced(self, query: int | jax.Array, queries: int, key: int | jax.Array, keys: int) -> "Visibility":
        """Returns the visibility of `queries` queries from `query` on, among `keys` keys from `key` on."""
        extra_mask, prefix = self.extra_mask, self.prefix
        if extra_mask is not None:
            extra_mask = _slice_axis(_slice_axis(extra_mask, query, queries, axis=1), key, keys, axis=2)
        if prefix is not None and prefix.shape[1] > 1:
            prefix = _slice_axis(prefix, key, keys, axis=1)
        new_queries, new_keys = self.queries.sliced(query, queries), self.keys.sliced(key, keys)
        return dataclasses.replace(self, queries=new_queries, keys=new_keys, prefix=prefix, extra_mask=extra_mask)

    def padded(self, queries: int, keys: int) -> "Visibility":
        """Returns the same for more queries and keys; the visibility of the added ones has no meaning."""
        if (queries, keys) == (self.queries.count, self.keys.count):
            return self
        extra_mask, prefix = self.extra_mask, self.prefix
        if extra_mask is not None:
            extra_mask = jnp.pad(extra_mask, ((0, 0), (0, queries - self.queries.count), (0, keys - self.keys.count)))
        if prefix is not None and prefix.shape[1] > 1:
            prefix = jnp.pad(prefix, ((0, 0), (0, keys - self.keys.count)))
        new_queries, new_keys = self.queries.padded(queries), self.keys.padded(keys)
        return dataclasses.replace(self, queries=new_queries, keys=new_keys, prefix=prefix, extra_mask=extra_mask)

    def mask(self) -> jax.Array | None:
        """True where a query sees a key, (B or 1, T, S); None where every query sees every key."""
        q, k = self.queries, self.keys
        conditions = [self.extra_mask]
        if self.causal:
            query, key = self._indices()
            visible = query >= key
            if self.prefix is not None:
                visible = visible | (k.positions() < self.prefix)[:, None, :]
            conditions.append(visible)
        if self.patterns:
            same_as_indices = q.position is None and k.position is None
            later, earlier = self._indices() if same_as_indices else _pairs(q.positions(), k.positions())
            if not self.is_causal:
                later, earlier = jnp.maximum(later, earlier), jnp.minimum(later, earlier)
            conditions += [pattern.visible(later, earlier) for pattern in self.patterns]
        if q.segment_ids is not None and k.segment_ids is not None:
            query, key = _pairs(q.segment_ids, k.segment_ids)
            conditions.append(query == key)
        masks = [mask for mask in conditions if mask is not None]
        return functools.reduce(operator.and_, masks) if masks else None

    def block(self, queries: slice, keys: slice) -> jax.Array:
        """True where a query of a slice sees a key of a slice, (B or 1, T, S) of that block alone."""
        query, key = queries.indices(self.queries.count), keys.indices(self.keys.count)
        assert query[2] == key[2] == 1, "slices of neighbours"
        sizes = max(0, query[1] - query[0]), max(0, key[1] - key[0])
        mask = self.sliced(query[0], sizes[0], key[0], sizes[1]).mask()
        return jnp.ones((1, *sizes), bool) if mask is None else jnp.broadcast_to(mask, (mask.shape[0], *sizes))

    def _indices(self) -> tuple[jax.Array, jax.Array]:
        """The indices of queries and of keys, which broadcast to (B, T, S)."""
        q, k = self.queries, self.keys
        if q.index is not None or k.index is not None:
            return _pairs(q.indices(), k.indices())
        shape = (1, q.count, k.count)
        query, key = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (1, 2))
        add = lambda x, first: x if isinstance(first, int) and first == 0 else x + first  # noqa: E731
        return add(query, q.first), add(key, k.first)


def causal(
    queries: Coordinates,
    keys: Coordinates | None = None,
    *,
    monotonic_positions: bool = True,
    consecutive_positions: bool = False,
) -> Visibility:
    """A query sees the keys at its own index and before, in its own document; the keys are the queries' own tokens.

    Args:
      queries: the coordinates of the queries.
      keys: the coordinates of the keys if they are others, such as the slots of a cache.
      monotonic_positions, consecutive_positions: see `Visibility`.
    """
    return Visibility(
        queries,
        queries if keys is None else keys,
        monotonic_positions=monotonic_positions,
        consecutive_positions=consecutive_positions,
    )


def bidirectional(
    queries: Coordinates, keys: Coordinates | None = None, *, monotonic_positions: bool = True
) -> Visibility:
    """A query sees all keys of its document, as in an encoder; arguments as for `causal`."""
    return Visibility(queries, queries if keys is None else keys, causal=False, monotonic_positions=monotonic_positions)


def renumber_segments(segment_ids_BT: jax.Array | None) -> jax.Array | None:
    """Segment ids that count the documents of a row from 0; the tokens of a document lie side by side."""
    if segment_ids_BT is None:
        return None
    changes_BT = jnp.diff(segment_ids_BT, prepend=segment_ids_BT[:, :1]) != 0
    return jnp.cumsum(changes_BT, axis=1, dtype=jnp.int32)


def _pairs(query_BT: jax.Array, key_BS: jax.Array) -> tuple[jax.Array, jax.Array]:
    return query_BT[:, :, None], key_BS[:, None, :]


def _slice_axis(x: jax.Array, start: int | jax.Array, count: int, axis: int) -> jax.Array:
    """`count` entries of an axis; all of them without an operation."""
    if isinstance(start, int):
        return x if (start, count) == (0, x.shape[axis]) else jax.lax.slice_in_dim(x, start, start + count, axis=axis)
    return jax.lax.dynamic_slice_in_dim(x, start, count, axis=axis)
