"""One layer: the residual stream, and what reads from it and adds to it; the equations are in model/residual.py."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.config import ModelConfig
from model.feedforward.experts import Experts, MixtureOfExperts
from model.feedforward.mlp import FeedForward
from model.gradients import narrowed
from model.layers import Layer
from model.mixers import new_mixer
from model.norms import Norm
from model.parameters import ParameterMaker
from model.residual import Parallel, PostNorm, Reordered, Sandwich
from model.taps import Context

# The axes of the residual stream. Sublayers may have positions laid out in another way: the two constraints around each
# are where the stream is gathered, and where what is added to it is scattered.
STREAM = ("batch", "sequence", "embed")


class Block(nnx.Module):
    """Attention and feed-forward around a residual stream."""

    def __init__(self, config: ModelConfig, layer: Layer, make: ParameterMaker) -> None:
        """Args: the model's options, the mechanisms of this layer, the maker of parameters."""
        self.residual, self.dropout, self.multiplier = (
            config.residual,
            config.dropout.residual,
            config.multipliers.residual,
        )
        reductions = config.precision.reductions

        def norm() -> Norm:
            return Norm(config.norm, (config.width,), ("embed",), make, reductions)

        def gain() -> nnx.Param | None:
            start = config.layer_scale
            return None if start is None else make.constant("gain", start, (config.width,), ("embed",))

        reads, writes = not isinstance(self.residual, Reordered), isinstance(self.residual, Sandwich | Reordered)
        one_norm = isinstance(self.residual, Parallel) and self.residual.shared_norm
        self.attention_norm = norm() if reads else None
        self.attention = new_mixer(
            layer.attention, layer.position, config.width, config.dropout.attention, reductions, make
        )
        self.attention_output_norm = norm() if writes else None
        self.attention_gain = gain()
        self.ffn_norm = norm() if reads and not one_norm else None
        self.ffn: MixtureOfExperts | FeedForward
        if isinstance(layer.ffn, Experts):
            self.ffn = MixtureOfExperts(layer.ffn, config.width, make)
        else:
            self.ffn = FeedForward(layer.ffn, config.width, make)
        self.ffn_output_norm = norm() if writes else None
        self.ffn_gain = gain()

    def __call__(self, x_BTD: jax.Array, context: Context, cache: Any) -> tuple[jax.Array, Any]:
        """Maps the residual stream (B, T, D) to the next one; the cache of this layer goes along."""
        read_BTD = self._read(x_BTD, self.attention_norm)
        inside_BTD = context.shard(read_BTD, ("batch", "query_sequence", "embed"))
        y_BTD, cache = self.attention(inside_BTD, context, cache)
        y_BTD = context.shard(y_BTD, STREAM)
        y_BTD = context.tap("attention_output", self._written(y_BTD, self.attention_output_norm, self.attention_gain))
        if isinstance(self.residual, Parallel):
            read_BTD = read_BTD if self.ffn_norm is None else self.ffn_norm(x_BTD)
            x_BTD = x_BTD + context.dropout(y_BTD, self.dropout)
        else:
            x_BTD = self._add(x_BTD, y_BTD, self.attention_norm, context)
            read_BTD = self._read(x_BTD, self.ffn_norm)
        y_BTD = self.ffn(context.shard(read_BTD, ("batch", "ffn_sequence", "embed")), context)
        y_BTD = self._written(context.shard(y_BTD, STREAM), self.ffn_output_norm, self.ffn_gain)
        x_BTD = self._add(x_BTD, context.tap("ffn_output", y_BTD), self.ffn_norm, context)
        return context.tap("block_output", x_BTD), cache

    def _read(self, x_BTD: jax.Array, norm: Norm | None) -> jax.Array:
        return x_BTD if norm is None or isinstance(self.residual, PostNorm) else norm(x_BTD)

    def _written(self, y_BTD: jax.Array, norm: Norm | None, gain: nnx.Param | None) -> jax.Array:
        y_BTD = y_BTD if norm is None else norm(y_BTD)
        y_BTD = y_BTD if gain is None else y_BTD * narrowed(gain[...], y_BTD)
        return y_BTD if self.multiplier == 1 else y_BTD * jnp.asarray(self.multiplier, y_BTD.dtype)

    def _add(self, x_BTD: jax.Array, y_BTD: jax.Array, norm: Norm | None, context: Context) -> jax.Array:
        if isinstance(self.residual, PostNorm) and self.residual.alpha != 1:
            x_BTD = x_BTD * jnp.asarray(self.residual.alpha, x_BTD.dtype)
        x_BTD = x_BTD + context.dropout(y_BTD, self.dropout)
        if norm is not None and isinstance(self.residual, PostNorm):
            x_BTD = norm(x_BTD)
        return context.shard(x_BTD, STREAM)
