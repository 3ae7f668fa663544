"""The key/value cache of decoding.

Slot i of a row holds the token at position i of that row, so a query at position p may see slots 0 to p and no more.
What padding left behind lies in later slots: it is never seen, and it is overwritten when the real token comes.
"""

import jax
import jax.numpy as jnp
from flax import struct

from model.layout import Layout


@struct.dataclass
class Cache:
    """Keys and values of one layer, each (B, S, K, H); of a stack of layers with these in front."""

    k: jax.Array
    v: jax.Array

    @property
    def length(self) -> int:
        """The slots of a row."""
        return self.k.shape[-3]

    def placed(self, layout: Layout) -> "Cache":
        """The cache of a stack of layers, laid over the mesh."""
        axes = ("layer", "batch", "key_sequence", "kv_heads", "head_dim")
        return Cache(k=layout.constrain(self.k, axes), v=layout.constrain(self.v, axes))


def empty(batch: int, length: int, num_kv_heads: int, head_dim: int, dtype: str) -> Cache:
    """A cache of zeros for `batch` rows of at most `length` tokens."""
    shape = (batch, length, num_kv_heads, head_dim)
    return Cache(k=jnp.zeros(shape, dtype), v=jnp.zeros(shape, dtype))


def write(cache: Cache, k_BTKH: jax.Array, v_BTKH: jax.Array, index_BT: jax.Array) -> Cache:
    """One layer's cache with new keys and values at the slots `index_BT`; slots past the end are dropped."""
    rows_B1 = jnp.arange(index_BT.shape[0])[:, None]
    return Cache(
        k=cache.k.at[rows_B1, index_BT].set(k_BTKH.astype(cache.k.dtype), mode="drop"),
        v=cache.v.at[rows_B1, index_BT].set(v_BTKH.astype(cache.v.dtype), mode="drop"),
    )
