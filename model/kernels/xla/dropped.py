"""Dropout of attention weights: whether a weight is dropped depends on its row, head, query and key alone.

So every kernel drops the same weights, in blocks or tiles of any size, on one device and on every mesh, and the
backward pass drops them again without keeping them. The random bits are a hash of the four numbers, the one that
`jax.random` uses (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3", Threefry).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p

from model.kernels.visibility import Visibility


def keys_of_heads(key: jax.Array, batch: int, heads: int) -> jax.Array:
    """Returns a key for each row and query head, (B, N, 2) in uint32, from a random key."""
    words = jax.random.bits(key, (2,), jnp.uint32)
    row_BN, head_BN = (jax.lax.broadcasted_iota(jnp.uint32, (batch, heads), axis) for axis in (0, 1))
    return jnp.stack(_hash(words[0], words[1], row_BN, head_BN), axis=-1)


def drop_weights(x_BKGTS: jax.Array, rate: float, keys_BN2: jax.Array | None, visibility: Visibility) -> jax.Array:
    """Zeroes each weight, or its gradient, with probability `rate` and divides the rest by 1 - rate.

    Args:
      x_BKGTS: of a block of queries and keys.
      rate: the probability.
      keys_BN2: from `keys_of_heads`; without keys x is returned as it is.
      visibility: of this block; its coordinates number queries and keys.
    """
    if keys_BN2 is None:
        return x_BKGTS
    b, k, g, _, _ = x_BKGTS.shape
    words = jnp.moveaxis(keys_BN2.reshape(b, k, g, 1, 1, 2), -1, 0)
    query, key = (tokens.indices().astype(jnp.uint32) for tokens in (visibility.queries, visibility.keys))
    bits, more = _hash(words[0], words[1], query[:, None, None, :, None], key[:, None, None, None, :])
    is_kept = (bits ^ more) >= np.uint32(min(round(rate * 2**32), 2**32 - 1))
    return jnp.where(is_kept, x_BKGTS / (1 - rate), jnp.zeros_like(x_BKGTS))


def _hash(first: jax.Array, second: jax.Array, one: jax.Array, other: jax.Array) -> list[jax.Array]:
    """Returns two words for each pair of words, under a key of two words; all of uint32."""
    shape = jnp.broadcast_shapes(*(x.shape for x in (first, second, one, other)))
    return list(threefry2x32_p.bind(*(jnp.broadcast_to(x, shape) for x in (first, second, one, other))))
