"""The logits that a direction of the residual stream promotes and suppresses.

The last norm and the unembedding read the direction, and its opposite, as if it were the stream: half of the difference
has no bias in it. The norm gives every direction the same length, so that the numbers compare tokens, not directions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.config import ModelConfig
from model.layout import Layout
from train.inspection.stream.readout import lens


def effects(config: ModelConfig, params: Any, directions_UD: jax.Array, layout: Layout) -> jax.Array:
    """The logits (units, V) of directions, less their mean over tokens; to be traced."""
    x_1UD = directions_UD[None].astype(jnp.dtype(config.precision.compute))
    both = (lens(config, params, sign * x_1UD, layout)[0].astype(jnp.float32) for sign in (1, -1))
    up_UV, down_UV = both
    half_UV = (up_UV - down_UV) / 2
    return half_UV - jnp.mean(half_UV, axis=-1, keepdims=True)


def extremes(logits_UV: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ids (units, count) with the largest logits, largest first, and with the smallest, smallest first."""
    order = np.argsort(-logits_UV, axis=1, kind="stable")
    return order[:, :count], order[:, ::-1][:, :count]
