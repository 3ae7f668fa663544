"""Short causal convolutions over tokens, with one filter for each channel.

Fu et al. 2023, "Hungry Hungry Hippos", section 3 (a shift before a memory); Gu, Dao 2023, "Mamba", figure 3.
"""

import jax
import jax.numpy as jnp

from model.context import Context
from model.parameters.mixed_precision import cast_like


def convolve(
    x_BTNH: jax.Array, filter_JNH: jax.Array, context: Context, conv_state_BNJH: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Computes y_t = sum_j filter_j x_(t-j), over the tokens of t's document.

    Args:
      x_BTNH: the input.
      filter_JNH: the filter of each channel, j = 0 first.
      context: the context of the layer. Where some tokens are not real, the real tokens of a row come first.
      conv_state_BNJH: the last J - 1 real tokens before x; None for zeros.

    Returns:
      y, and the last J - 1 real tokens.
    """
    (batch, length, heads, width), history = x_BTNH.shape, filter_JNH.shape[0] - 1
    if conv_state_BNJH is None:
        conv_state_BJNH = jnp.zeros((batch, history, heads, width), x_BTNH.dtype)
    else:
        conv_state_BJNH = jnp.swapaxes(conv_state_BNJH, 1, 2).astype(x_BTNH.dtype)
    all_BTNH = jnp.concatenate([conv_state_BJNH, x_BTNH], axis=1)
    segment_ids_BT = context.segment_ids_BT
    if segment_ids_BT is not None:
        segment_ids_BT = jnp.pad(segment_ids_BT, [(0, 0), (history, 0)], mode="edge")
    y_BTNH = jnp.zeros_like(x_BTNH)
    for j in range(history + 1):
        shifted = slice(history - j, history - j + length)
        term_BTNH = all_BTNH[:, shifted] * cast_like(filter_JNH[j], x_BTNH)
        if segment_ids_BT is not None:
            term_BTNH = jnp.where(
                (segment_ids_BT[:, shifted] == segment_ids_BT[:, history:])[..., None, None], term_BTNH, 0
            )
        y_BTNH = y_BTNH + term_BTNH
    real_BT = context.real_BT
    num_read_B = jnp.full((batch,), length) if real_BT is None else jnp.sum(real_BT, axis=1)
    last_BJ = num_read_B[:, None] + jnp.arange(history)
    conv_state_BJNH = jnp.take_along_axis(all_BTNH, last_BJ[:, :, None, None], axis=1)
    return y_BTNH, jnp.swapaxes(conv_state_BJNH, 1, 2).astype(jnp.float32)
