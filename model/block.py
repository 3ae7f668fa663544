"""One layer: the residual stream, what reads from it, and where the norms sit.

Pre-norm: Radford et al. 2019 (GPT-2), section 2.3. Post-norm: Vaswani et al. 2017, section 3.1.
"""

import jax
from flax import nnx

from model.attention import Attention
from model.cache import Cache
from model.config import ModelConfig
from model.experts import Experts, MixtureOfExperts
from model.feedforward import FeedForward
from model.initialization import ParameterMaker
from model.layers import Layer
from model.norms import Norm
from model.taps import Context


class Block(nnx.Module):
    """Attention and feed-forward around a residual stream."""

    def __init__(self, config: ModelConfig, layer: Layer, make: ParameterMaker) -> None:
        """Args: the model's options, the mechanisms of this layer, the maker of parameters."""
        reductions = config.precision.reductions
        self.pre_norm = config.norm_placement == "pre"
        self.dropout = config.dropout.residual
        self.attention_norm = Norm(config.norm, config.width, make, reductions)
        self.attention = Attention(layer.attention, config.width, config.dropout.attention, reductions, make)
        self.ffn_norm = Norm(config.norm, config.width, make, reductions)
        self.ffn: MixtureOfExperts | FeedForward
        if isinstance(layer.ffn, Experts):
            self.ffn = MixtureOfExperts(layer.ffn, config.width, make)
        else:
            self.ffn = FeedForward(layer.ffn, config.width, make)

    def __call__(self, x_BTD: jax.Array, context: Context, cache: Cache | None) -> tuple[jax.Array, Cache | None]:
        """Maps the residual stream (B, T, D) to the next one; the cache of this layer goes along."""
        y_BTD, cache = self.attention(self._read(x_BTD, self.attention_norm), context, cache)
        x_BTD = self._write(x_BTD, context.tap("attention_output", y_BTD), self.attention_norm, context)
        y_BTD = self.ffn(self._read(x_BTD, self.ffn_norm), context)
        x_BTD = self._write(x_BTD, context.tap("ffn_output", y_BTD), self.ffn_norm, context)
        return context.tap("block_output", x_BTD), cache

    def _read(self, x_BTD: jax.Array, norm: Norm) -> jax.Array:
        return norm(x_BTD) if self.pre_norm else x_BTD

    def _write(self, x_BTD: jax.Array, y_BTD: jax.Array, norm: Norm, context: Context) -> jax.Array:
        x_BTD = x_BTD + context.dropout(y_BTD, self.dropout)
        x_BTD = x_BTD if self.pre_norm else norm(x_BTD)
        return context.shard(x_BTD, ("batch", "sequence", "embed"))
