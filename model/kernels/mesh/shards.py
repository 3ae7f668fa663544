"""Attention on a mesh: each device computes the attention of its rows, queries and heads, from local arrays.

Rows, queries and heads are independent of each other, so a kernel that runs inside `shard_map` sends nothing. Heads
that share a key head stay with it where the mesh divides the key heads; elsewhere every device has all key heads, and
takes those of its queries.

Where a sequence is split, each device computes the attention of its queries. Either it gathers the keys and values of
all devices, or these travel in a ring (ring.py): the table decides, by the axis "key_sequence". In a causal order the
last queries see most keys: if the layout is balanced, each device takes a chunk of queries from the start of the
sequence and one from its end, from neighbours before and back to them after.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from model.errors import UserError
from model.kernels.mesh.ring import Ring, attend_in_ring, from_chunks, steps_of, to_chunks
from model.kernels.scoring import Bias, Scoring
from model.kernels.selection import record_choice
from model.kernels.visibility import Coordinates, Visibility
from model.layout import Axes, AxisSharding, Layout


@dataclasses.dataclass(frozen=True)
class Arrays:
    """The arrays of one call of attention, whole or of one device.

    Attributes:
      q_BTNH, k_BSKH, v_BSKH: queries, keys and values.
      visibility: which keys each query sees.
      bias: a bias added to scores, or None.
      sink_N: the sinks, or None.
      dropout_keys: (B, N, 2), a random key of each row and query head, or None.
    """

    q_BTNH: Any
    k_BSKH: Any
    v_BSKH: Any
    visibility: Visibility
    bias: Bias | None = None
    sink_N: Any = None
    dropout_keys: Any = None


jax.tree_util.register_dataclass(Arrays)


@dataclasses.dataclass(frozen=True)
class Split:
    """How the axes of a call of attention are split over devices.

    Attributes:
      batch, queries, heads: of queries and of the output.
      keys, kv_heads: of keys and values.
      num_heads, num_kv_heads: N and K of the whole arrays.
      gathers: whether a device gathers the keys of the whole sequence, which are split like queries.
      chunks: the chunks of the sequence from which a device takes its queries, 1 or 2.
    """

    batch: AxisSharding
    queries: AxisSharding
    heads: AxisSharding
    keys: AxisSharding
    kv_heads: AxisSharding
    num_heads: int
    num_kv_heads: int
    gathers: bool
    chunks: int

    @classmethod
    def of(cls, layout: Layout, arrays: Arrays) -> "Split":
        """Returns how a layout splits a call; an axis that the mesh does not divide stays whole."""
        q, k, seen = arrays.q_BTNH, arrays.k_BSKH, arrays.visibility
        batch, queries, heads, _ = layout.axis_shardings(q.shape, ("batch", "query_sequence", "heads", None))
        _, keys, kv_heads, _ = layout.axis_shardings(k.shape, ("batch", "key_sequence", "kv_heads", None))
        own_tokens = queries.ways > 1 and q.shape[1] == k.shape[1]
        gathers = own_tokens and keys.ways == 1
        unequal = seen.is_causal and seen.reach is None and seen.indices_are_consecutive and seen.extra_mask is None
        halves = q.shape[1] % (2 * queries.ways) == 0
        balanced = layout.balanced and unequal and halves and own_tokens and (gathers or keys == queries)
        return cls(
            batch=batch,
            queries=queries,
            heads=heads,
            keys=queries if gathers else keys,
            kv_heads=kv_heads if kv_heads == heads else AxisSharding(),
            num_heads=q.shape[2],
            num_kv_heads=k.shape[2],
            gathers=gathers,
            chunks=2 if balanced else 1,
        )

    @property
    def in_ring(self) -> bool:
        """Whether keys travel in a ring."""
        return self.keys.ways > 1 and not self.gathers

    def ring(self, visibility: Visibility, keys: int) -> Ring:
        """Returns the ring of the devices with parts of a sequence, where each has this many keys."""
        first, steps = steps_of(visibility, self.keys.ways, keys)
        return Ring(self.keys.mesh_axes, self.keys.ways, first, steps, self.chunks)

    def axes(self, arrays: Arrays) -> Arrays:
        """Returns the axes of each array in its place."""
        keys_and_values = (self.batch, self.keys, self.kv_heads, None)
        return Arrays(
            q_BTNH=self.output,
            k_BSKH=keys_and_values,
            v_BSKH=keys_and_values,
            visibility=self._visibility_axes(arrays.visibility, arrays.q_BTNH.shape[0]),
            bias=None if arrays.bias is None else arrays.bias.axes(self.heads),
            sink_N=None if arrays.sink_N is None else (self.heads,),
            dropout_keys=None if arrays.dropout_keys is None else (self.batch, self.heads, None),
        )

    @property
    def output(self) -> Axes:
        """The axes of the output, and of the queries."""
        return (self.batch, self.queries, self.heads, None)

    def _visibility_axes(self, visibility: Visibility, batch: int) -> Visibility:
        def rows(x: Any) -> AxisSharding | None:
            return self.batch if x.shape[0] == batch else None

        def of_tokens(tokens: Coordinates, split: AxisSharding) -> Coordinates:
            name = lambda x: None if x is None else (rows(x), split)  # noqa: E731
            arrays: dict[str, Any] = {
                each: name(getattr(tokens, each)) for each in ("index", "position", "segment_ids")
            }
            return dataclasses.replace(tokens, **arrays)

        # A device has the visibility of all keys, and in a ring or in chunks that of all queries, to take parts of it.
        key_split, whole = AxisSharding(), self.in_ring or self.chunks == 2
        query_split = AxisSharding() if whole else self.queries
        prefix, extra_mask = visibility.prefix, visibility.extra_mask
        arrays: dict[str, Any] = {
            "queries": of_tokens(visibility.queries, query_split),
            "keys": of_tokens(visibility.keys, key_split),
            "prefix": None if prefix is None else (rows(prefix), key_split if prefix.shape[1] > 1 else None),
            "extra_mask": None if extra_mask is None else (rows(extra_mask), query_split, key_split),
        }
        return dataclasses.replace(visibility, **arrays)

    def of_device(self, arrays: Arrays) -> Arrays:
        """Returns the arrays of this device inside `shard_map`, which has split them by `axes`; keys are gathered.

        In a ring or in chunks, the visibility is still that of the whole sequence.
        """
        k_BSKH, v_BSKH = (self._key_heads_of_device(x) for x in (arrays.k_BSKH, arrays.v_BSKH))
        if self.gathers:
            gather = functools.partial(jax.lax.all_gather, axis_name=self.keys.mesh_axes, axis=1, tiled=True)
            k_BSKH, v_BSKH = gather(k_BSKH), gather(v_BSKH)
        visibility = arrays.visibility
        if not self.in_ring and self.chunks == 1:
            visibility = dataclasses.replace(visibility, queries=visibility.queries.of_device(self.queries))
        return Arrays(
            q_BTNH=arrays.q_BTNH,
            k_BSKH=k_BSKH,
            v_BSKH=v_BSKH,
            visibility=visibility,
            bias=None if arrays.bias is None else arrays.bias.of_device(self.heads),
            sink_N=arrays.sink_N,
            dropout_keys=arrays.dropout_keys,
        )

    def _key_heads_of_device(self, x_BSKH: jax.Array) -> jax.Array:
        """Returns the key heads of this device's query heads, from all key heads where these are not split."""
        if self.kv_heads == self.heads or self.num_kv_heads == 1:
            return x_BSKH
        local, group = self.num_heads // self.heads.ways, self.num_heads // self.num_kv_heads
        first = jax.lax.axis_index(self.heads.mesh_axes) * local
        if group % local == 0:  # one key head for all of them
            return jax.lax.dynamic_slice_in_dim(x_BSKH, first // group, 1, axis=2)
        return jnp.take(x_BSKH, (first + jnp.arange(local)) // group, axis=2)


def attend_on_shards(
    layout: Layout,
    kernel: Callable[[Arrays], jax.Array],
    arrays: Arrays,
    scoring: Scoring,
    rate: float,
    allowed: Sequence[str],
) -> jax.Array | None:
    """Returns the output (B, T, N, H) of attention on whole arrays; None where it does not run on each device.

    Args:
      layout: the layout of the arrays.
      kernel: computes the attention of local arrays.
      arrays: the whole arrays.
      scoring: how scores are computed from queries and keys.
      rate: the share of weights that is dropped if there is a key.
      allowed: the names of the kernels that may run.

    Raises:
      UserError: for keys that travel in a ring, if its kernel is not allowed.
    """
    split = Split.of(layout, arrays)
    if split.in_ring and split.keys != split.queries:
        return None
    if split.in_ring:
        if "tiles" not in allowed:
            raise UserError(
                "keys that travel in a ring meet the tiles of model/kernels/xla/tiles.py, and model.kernels.attention "
                f"has {', '.join(allowed)}; add 'tiles', or set sharding.activations.key_sequence=()"
            )
        record_choice("attention", "tiles, in a ring")

    def on_device(arrays: Arrays) -> jax.Array:
        own = split.of_device(arrays)
        if split.in_ring:
            ring = split.ring(own.visibility, own.k_BSKH.shape[1])
            tokens = own.q_BTNH, own.k_BSKH, own.v_BSKH, own.visibility
            return attend_in_ring(ring, scoring, rate, *tokens, own.bias, own.sink_N, own.dropout_keys)
        return kernel(own) if split.chunks == 1 else _in_chunks(split, kernel, own)

    y_BTNH: jax.Array = layout.shard_map(on_device, (split.axes(arrays),), split.output, checks_copies=False)(arrays)
    return y_BTNH


def _in_chunks(split: Split, kernel: Callable[[Arrays], jax.Array], own: Arrays) -> jax.Array:
    """Returns the output of a device that takes its queries from two chunks, with all keys."""
    (_, t, _, _), keys = own.q_BTNH.shape, own.k_BSKH.shape[1]
    ring = split.ring(own.visibility, t)
    device, parts = jax.lax.axis_index(ring.mesh_axes), []
    for number, q_BTNH in enumerate(jnp.split(to_chunks(ring, own.q_BTNH), 2, axis=1)):
        start = ring.start(device, number, t // 2)
        seen = own.visibility.sliced(start, t // 2, 0, keys)
        if own.visibility.queries.offset is None:
            seen = dataclasses.replace(seen, queries=dataclasses.replace(seen.queries, parts=2 * ring.ways))
        parts.append(kernel(dataclasses.replace(own, q_BTNH=q_BTNH, visibility=seen)))
    return from_chunks(ring, jnp.concatenate(parts, axis=1))
