"""Attention on a mesh: each device computes the attention of its rows, queries and heads, from local arrays.

Rows, queries and heads are independent of each other, so a kernel that runs inside `shard_map` sends nothing. Heads
that share a key head stay with it where the mesh divides the key heads; elsewhere every device has all key heads, and
takes those of its queries.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from model.kernels.scoring import Bias
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
      dropout_key: a random key, or None.
    """

    q_BTNH: Any
    k_BSKH: Any
    v_BSKH: Any
    visibility: Visibility
    bias: Bias | None = None
    sink_N: Any = None
    dropout_key: Any = None


jax.tree_util.register_dataclass(Arrays)


@dataclasses.dataclass(frozen=True)
class Split:
    """How the axes of a call of attention are split over devices.

    Attributes:
      batch, queries, heads: of queries and of the output.
      keys, kv_heads: of keys and values.
      num_heads, num_kv_heads: N and K of the whole arrays.
    """

    batch: AxisSharding
    queries: AxisSharding
    heads: AxisSharding
    keys: AxisSharding
    kv_heads: AxisSharding
    num_heads: int
    num_kv_heads: int

    @classmethod
    def of(cls, layout: Layout, q_BTNH: Any, k_BSKH: Any) -> "Split":
        """Returns how a layout splits queries and keys; an axis that the mesh does not divide stays whole."""
        batch, queries, heads, _ = layout.axis_shardings(q_BTNH.shape, ("batch", "query_sequence", "heads", None))
        _, keys, kv_heads, _ = layout.axis_shardings(k_BSKH.shape, ("batch", "key_sequence", "kv_heads", None))
        same = kv_heads if kv_heads == heads else AxisSharding()
        return cls(batch, queries, heads, keys, same, q_BTNH.shape[2], k_BSKH.shape[2])

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
            dropout_key=None if arrays.dropout_key is None else (),
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

        prefix, extra_mask = visibility.prefix, visibility.extra_mask
        arrays: dict[str, Any] = {
            "queries": of_tokens(visibility.queries, self.queries),
            "keys": of_tokens(visibility.keys, self.keys),
            "prefix": None if prefix is None else (rows(prefix), self.keys if prefix.shape[1] > 1 else None),
            "extra_mask": None if extra_mask is None else (rows(extra_mask), self.queries, self.keys),
        }
        return dataclasses.replace(visibility, **arrays)

    def of_device(self, arrays: Arrays) -> Arrays:
        """Returns the arrays of this device inside `shard_map`, which has split them by `axes`."""
        k_BSKH, v_BSKH = (self._key_heads_of_device(x) for x in (arrays.k_BSKH, arrays.v_BSKH))
        visibility = arrays.visibility
        names = (*self.batch.mesh_axes, *self.queries.mesh_axes, *self.heads.mesh_axes)
        key = arrays.dropout_key
        if key is not None and names:  # each device drops other weights
            key = jax.random.fold_in(key, jax.lax.axis_index(names))
        return Arrays(
            q_BTNH=arrays.q_BTNH,
            k_BSKH=k_BSKH,
            v_BSKH=v_BSKH,
            visibility=dataclasses.replace(
                visibility,
                queries=visibility.queries.of_device(self.queries),
                keys=visibility.keys.of_device(self.keys),
            ),
            bias=None if arrays.bias is None else arrays.bias.of_device(self.heads),
            sink_N=arrays.sink_N,
            dropout_key=key,
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


def attend_on_shards(layout: Layout, kernel: Callable[..., jax.Array], arrays: Arrays) -> jax.Array:
    """Returns the output (B, T, N, H) of attention on whole arrays.

    Keys that are split in another way than queries, such as the slots of a long cache, are left to the compiler.

    Args:
      layout: the layout of the arrays.
      kernel: computes the attention of local arrays, or of arrays that the compiler splits over a number of devices,
        its second argument.
      arrays: the whole arrays.
    """
    split = Split.of(layout, arrays.q_BTNH, arrays.k_BSKH)
    if split.keys.ways > 1:
        return kernel(arrays, layout.devices)
    on_device = lambda arrays: kernel(split.of_device(arrays))  # noqa: E731
    y_BTNH: jax.Array = layout.shard_map(on_device, (split.axes(arrays),), split.output, checks_copies=False)(arrays)
    return y_BTNH
