"""One layer: each sublayer reads the residual stream and writes to it, as the scheme of model/residual/ says."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.config import ModelConfig
from model.context import Context
from model.layers import Layer
from model.parameters.maker import ParameterMaker
from model.residual.scheme import Around

# The axes of the residual stream. Sublayers may have positions laid out in another way: the two constraints around each
# are where the stream is gathered, and where what is added to it is scattered.
STREAM = ("batch", "sequence", "embed")


class Block(nnx.Module):
    """A mixer and a feed-forward layer around a residual stream, or one of them."""

    def __init__(self, config: ModelConfig, layer: Layer, make: ParameterMaker, before: jax.Array | int) -> None:
        """Args: the model's options, the mechanisms of this layer, the maker, the number of sublayers before it."""
        reductions = config.precision.reductions
        around = Around(
            sublayers=layer.sublayers,
            width=config.width,
            norm=config.norm,
            layer_scale=config.layer_scale,
            multiplier=config.multipliers.residual,
            dropout=config.dropout.residual,
            reductions=reductions,
        )
        mixer, ffn, width, dropout = layer.mixer, layer.ffn, config.width, config.dropout.attention
        self.mixer = None if mixer is None else mixer.build(width, dropout, reductions, make, layer.position)
        self.ffn = None if ffn is None else ffn.build(width, make)
        # Last, so that sublayers start alike under every scheme, whatever it draws.
        self.residual = config.residual.build(around, make, before)

    def __call__(self, stream: Any, context: Context, cache: Any) -> tuple[Any, Any]:
        """Maps the residual stream to the next one; the cache of this layer goes along."""
        if self.mixer is not None:
            x_BTD, stream = self.residual.read(stream, "mixer")
            y_BTD, cache = self.mixer(context.shard(x_BTD, ("batch", "query_sequence", "embed")), context, cache)
            stream = self.residual.write(stream, context.shard(y_BTD, STREAM), "mixer", context)
        if self.ffn is not None:
            x_BTD, stream = self.residual.read(stream, "ffn")
            y_BTD = self.ffn(context.shard(x_BTD, ("batch", "ffn_sequence", "embed")), context)
            stream = self.residual.write(stream, context.shard(y_BTD, STREAM), "ffn", context)
        stream = context.tap("block_output", stream)
        context.offer("stream_squares", lambda: _squares(stream))
        return stream, cache


def _squares(stream: jax.Array) -> jax.Array:
    """The mean square of each token, (B, T)."""
    return jnp.mean(jnp.square(stream.astype(jnp.float32)), axis=tuple(range(2, stream.ndim)))
