"""How a query scores a key: a scaled product, perhaps capped, perhaps with something added for where the two stand."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from model.kernels.visibility import Coordinates, Visibility


class Bias(Protocol):
    """What is added to scores, block by block: a pytree whose arrays, all of floats, are what is trained of it.

    A kernel asks for the biases of the block at hand and gives the gradient of the arrays, so that none is as large as
    the sequence squared.
    """

    def __call__(self, queries: Coordinates, keys: Coordinates) -> jax.Array:
        """The biases of a block of queries and keys by where they stand, float32 (B or 1, N, T, S)."""


@dataclasses.dataclass(frozen=True)
class Scoring:
    """Products, soft-cap, bias, mask, in this order.

    The soft-cap c * tanh(s / c) is Gemma 2's (2024, section 2); it bounds what queries and keys say and leaves the bias
    whole.

    Attributes:
      scale: the factor on products, usually H^-1/2.
      softcap: c, or None for none.
      reductions: the dtype of scores and softmax.
    """

    scale: float
    softcap: float | None = None
    reductions: str = "float32"

    def by_head(self, q_BTNH: jax.Array, kv_heads: int) -> jax.Array:
        """Scaled queries as (B, K, G, T, H): neighbouring query heads share a key head."""
        b, t, _, h = q_BTNH.shape
        q_BNTH = (q_BTNH * jnp.asarray(self.scale, q_BTNH.dtype)).swapaxes(1, 2)
        return q_BNTH.reshape(b, kv_heads, -1, t, h)

    def products(self, q_BKGTH: jax.Array, k_BKSH: jax.Array) -> jax.Array:
        """q k, (B, K, G, T, S), of queries that are scaled already."""
        sums_in = jnp.dtype(self.reductions)
        if k_BKSH.shape[1] == 1:  # XLA on a CPU would turn the keys round first, for an axis of one
            s_BGTS = jnp.einsum("BGTH,BSH->BGTS", q_BKGTH[:, 0], k_BKSH[:, 0], preferred_element_type=sums_in)
            return s_BGTS[:, None]
        return jnp.einsum("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH, preferred_element_type=sums_in)

    def finish(self, s_BKGTS: jax.Array, visibility: Visibility, bias: Bias | None) -> jax.Array:
        """Products of a block to scores: capped, biased, and the lowest number where a query may not see a key."""
        if self.softcap is not None:
            s_BKGTS = self.softcap * jnp.tanh(s_BKGTS / self.softcap)
        if bias is not None:
            bias_BNTS = bias(visibility.queries, visibility.keys)
            bias_BKGTS = bias_BNTS.reshape(bias_BNTS.shape[0], *s_BKGTS.shape[1:])
            s_BKGTS = s_BKGTS + bias_BKGTS.astype(s_BKGTS.dtype)
        mask_BTS = visibility.mask()
        if mask_BTS is None:
            return s_BKGTS
        return jnp.where(mask_BTS[:, None, None], s_BKGTS, jnp.finfo(s_BKGTS.dtype).min)
