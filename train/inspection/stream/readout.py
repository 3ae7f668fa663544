"""The last norm and the unembedding of a model: whole as a lens, and linear for the shares of a logit.

A lens takes the stream after a layer for that after the last one. For shares, the last norm is linearised with its own
statistics: it divides each part of the stream by the same number as the whole, so that the results of the parts sum to
that of the whole, less the norm's bias. A soft-cap comes after the sum: shares are those of the logit before it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.errors import UserError
from model.layout import ONE_DEVICE, Layout
from model.norms import normalize
from model.transformer import logits, unembedding


def lens(config: ModelConfig, params: Any, stream: jax.Array, layout: Layout = ONE_DEVICE) -> jax.Array:
    """The logits (B, T, V) of the stream after a layer, `block_output`, as if that were the last one."""
    x_BTD = config.residual.leave(stream)
    if config.residual.final_norm:
        norm = params.get("final_norm", {})
        x_BTD = normalize(config.norm, config.precision.reductions, 1, x_BTD, norm.get("scale"), norm.get("bias"))
    return logits(config, params, x_BTD, layout=layout)


class Readout(NamedTuple):
    """The linear map from the stream to a logit, or to the difference of two.

    Attributes:
      direction_D: the map from the output of the last norm, float32.
      bias: the part of the logit that no part of the stream has: the biases of the unembedding and of the last norm.
    """

    direction_D: jax.Array
    bias: jax.Array


def check_additive(config: ModelConfig) -> None:
    """Raises UserError for a model whose stream is no sum of the outputs of its layers, with the reason."""
    if not config.residual.additive:
        name = type(config.residual).__name__
        raise UserError(
            f"residual={name}: the stream is no sum of the outputs of its sublayers, so a logit has no shares; the "
            "lens and patching look into such a model"
        )
    if config.prediction_head is not None:
        raise UserError("prediction_head is no linear map of the stream, so a logit has no shares; take the lens")
    if config.stream_scale is not None:
        raise UserError("stream_scale multiplies the stream after each layer, so a logit has no shares; take the lens")


def readout(config: ModelConfig, params: Any, target: jax.Array, against: jax.Array | None = None) -> Readout:
    """The readout of the logit of a token, less that of another one if it is given."""
    parts = unembedding(config, params)

    def column(token: jax.Array) -> tuple[jax.Array, jax.Array]:
        bias = jnp.zeros(()) if parts.bias_V is None else parts.bias_V[token].astype(jnp.float32)
        return parts.w_DV[:, token].astype(jnp.float32), bias

    direction, bias = column(target)
    if against is not None:
        other, other_bias = column(against)
        direction, bias = direction - other, bias - other_bias
    if parts.projection_DE is not None:
        direction = parts.projection_DE.astype(jnp.float32) @ direction
    norm_bias = params.get("final_norm", {}).get("bias")
    if norm_bias is not None:
        bias = bias + norm_bias.astype(jnp.float32) @ direction
    return Readout(direction * parts.transform.factor, bias * parts.transform.factor)


def shares(config: ModelConfig, params: Any, readout: Readout, parts_D: jax.Array, whole_D: jax.Array) -> jax.Array:
    """The shares of parts of the stream (..., D) in a logit; `whole_D` is the stream before the last norm, (D,)."""
    scale = params.get("final_norm", {}).get("scale")
    whole = jnp.broadcast_to(whole_D.astype(jnp.float32), parts_D.shape)
    normed = normalize(config.norm, "float32", 1, parts_D.astype(jnp.float32), scale, divisor_of=whole)
    return normed @ readout.direction_D
