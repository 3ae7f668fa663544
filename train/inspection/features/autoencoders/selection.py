"""Keeps the largest activations, without sorting: the bits of the smallest one that stays are found one by one.

Floats from 0 up are ordered as their bits are, read as whole numbers. Each of the 31 bits takes one count over the
array, so a split array needs no more than sums of counts, where sorting would gather it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def keep_largest(x: jax.Array, k: int, axis: int | Sequence[int]) -> jax.Array:
    """The k largest entries along some axes, and 0 for all others; the gradient flows through those that stay.

    Args:
      x: float32, from 0 up. Zeros never count.
      k: from 1 to the number of entries.
      axis: the axis, or the axes, that share the k entries.

    Entries that equal the smallest one that stays do stay, so that ties may keep more than k.
    """
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x).astype(jnp.float32), jnp.int32)

    def with_bit(i: jax.Array, least: jax.Array) -> jax.Array:
        candidate = least | (jnp.int32(1) << (30 - i))
        count = jnp.sum(bits >= candidate, axis=axes, keepdims=True, dtype=jnp.int32)
        return jnp.where(count >= k, candidate, least)

    shape = [1 if i in axes or i - x.ndim in axes else size for i, size in enumerate(x.shape)]
    least = jax.lax.fori_loop(0, 31, with_bit, jnp.zeros(shape, jnp.int32))
    return jnp.where(bits >= jnp.maximum(least, 1), x, 0.0)
