"""attend(q, k, v, mask): one door to every attention kernel."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask_BTS: jax.Array,
    *,
    scale: float,
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
      softcap: c, or None for none.
      reductions: the dtype of scores and softmax.
      on_weights: sees and may change the weights (B, N, T, S), for taps and dropout.

    Returns:
      (B, T, N, H), in the dtype of v.
    """
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
