"""attend(q, k, v, mask): one door to every attention kernel."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

# Causal queries are taken in up to this many blocks, of no fewer queries than that.
MOST_BLOCKS, SMALLEST_BLOCK = 4, 64


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask_BTS: jax.Array,
    *,
    scale: float,
    causal: bool = False,
    softcap: float | None = None,
    reductions: str = "float32",
    on_weights: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Grouped-query attention, softmax(scale * q k^T) v, written out for XLA.

    Vaswani et al. 2017, equation 1; groups of query heads share a key head (Ainslie et al. 2023, "GQA"); the soft-cap
    c * tanh(s / c) on scores is Gemma 2's (2024, section 2).

    Args:
      q_BTNH: queries; N is a multiple of K.
      k_BSKH, v_BSKH: keys and values.
      mask_BTS: True where a query sees a key; its batch may be 1.
      scale: the factor on scores, usually H^-1/2.
      causal: whether query t may see no key after t, as the mask must also say. Then queries are taken in blocks, each
        against the keys up to its end, which leaves out most of what the mask would throw away.
      softcap: c, or None for none.
      reductions: the dtype of scores and softmax.
      on_weights: sees and may change the weights of a block (B, N, t, s), for taps and dropout.

    Returns:
      (B, T, N, H), in the dtype of v.
    """
    inner = functools.partial(_attend, scale=scale, softcap=softcap, reductions=reductions, on_weights=on_weights)
    length = q_BTNH.shape[1]
    blocks = max(1, min(MOST_BLOCKS, length // SMALLEST_BLOCK)) if causal else 1
    if blocks == 1:
        return inner(q_BTNH, k_BSKH, v_BSKH, mask_BTS)
    size = -(-length // blocks)
    parts = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        mask = mask_BTS[:, start:stop, :stop]
        parts.append(inner(q_BTNH[:, start:stop], k_BSKH[:, :stop], v_BSKH[:, :stop], mask))
    return jnp.concatenate(parts, axis=1)


def _attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask_BTS: jax.Array,
    *,
    scale: float,
    softcap: float | None,
    reductions: str,
    on_weights: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:
    b, t, n, h = q_BTNH.shape
    s, kv = k_BSKH.shape[1], k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(b, t, kv, n // kv, h) * jnp.asarray(scale, q_BTNH.dtype)
    scores_BKGTS = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.dtype(reductions))
    if softcap is not None:
        scores_BKGTS = softcap * jnp.tanh(scores_BKGTS / softcap)
    lowest = jnp.finfo(scores_BKGTS.dtype).min
    scores_BKGTS = jnp.where(mask_BTS[:, None, None], scores_BKGTS, lowest)
    weights_BKGTS = jax.nn.softmax(scores_BKGTS, axis=-1).astype(v_BSKH.dtype)
    if on_weights is not None:
        weights_BNTS = on_weights(weights_BKGTS.reshape(b, n, t, s))
        weights_BKGTS = weights_BNTS.reshape(b, kv, n // kv, t, s)
    return jnp.einsum("BKGTS,BSKH->BTKGH", weights_BKGTS, v_BSKH).reshape(b, t, n, h)
