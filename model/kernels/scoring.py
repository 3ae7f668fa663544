"""How a query scores a key: a scaled product, with an optional soft-cap and an optional bias on positions."""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from model.kernels.visibility import Coordinates, Visibility
from model.layout import AxisSharding


class Bias(Protocol):
    """A bias on scores, made block by block: a pytree whose arrays, all of floats, are trained.

    A kernel asks for the biases of one block, and returns the gradients of the arrays, so that no array is as large as
    the sequence squared.
    """

    def __call__(self, queries: Coordinates, keys: Coordinates) -> jax.Array:
        """Returns the biases of a block from the coordinates of its queries and keys, float32 (B or 1, N, T, S)."""

    def axes(self, heads: AxisSharding) -> Any:
        """Returns the same tree with the axes of each array in its place, given the sharding of heads."""

    def of_device(self, heads: AxisSharding) -> "Bias":
        """Returns the bias of this device's heads inside `shard_map`, which has split the arrays already."""


@dataclasses.dataclass(frozen=True)
class Scoring:
    """Products, soft-cap, bias, mask, in this order.

    The soft-cap c * tanh(s / c) is Gemma 2's (2024, section 2); it bounds the products of queries and keys, and
    not the bias.

    Attributes:
      scale: the factor on products, usually H^-1/2.
      softcap: c, or None for no cap.
      reductions: the dtype of scores and softmax.
    """

    scale: float
    softcap: float | None = None
    reductions: str = "float32"

    def scale_and_group(self, q_BTNH: jax.Array, kv_heads: int) -> jax.Array:
        """Returns scaled queries (B, K, G, T, H): neighbouring query heads share a key head."""
        b, t, _, h = q_BTNH.shape
        q_BNTH = (q_BTNH * jnp.asarray(self.scale, q_BTNH.dtype)).swapaxes(1, 2)
        return q_BNTH.reshape(b, kv_heads, -1, t, h)

    def products(self, q_BKGTH: jax.Array, k_BKSH: jax.Array) -> jax.Array:
        """Returns the products q k^T of scaled queries, (B, K, G, T, S)."""
        sum_dtype = jnp.dtype(self.reductions)
        if k_BKSH.shape[1] == 1:  # XLA on a CPU would first transpose the keys, for an axis of one
            s_BGTS = jnp.einsum("BGTH,BSH->BGTS", q_BKGTH[:, 0], k_BKSH[:, 0], preferred_element_type=sum_dtype)
            return s_BGTS[:, None]
        return jnp.einsum("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH, preferred_element_type=sum_dtype)

    def scores(self, s_BKGTS: jax.Array, visibility: Visibility, bias: Bias | None) -> jax.Array:
        """Turns the products of a block into scores: capped, biased, and the lowest number for invisible keys."""
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
