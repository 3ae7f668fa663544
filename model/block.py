"""One layer: sublayers that read the residual stream and write to it by a residual scheme (model/residual/)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.config import ModelConfig
from model.context import Context
from model.encoder.cache import DecoderLayerCache
from model.layers import Layer
from model.parameters.maker import ParameterMaker
from model.parameters.mixed_precision import cast_like
from model.recompute import gradients_together
from model.residual.scheme import LayerSettings, shard_stream
from model.vocabulary.per_layer import PerLayerInput

# The axes of the residual stream. Sublayers may have another layout of positions: the constraint before a sublayer
# gathers its input from the stream, and the constraint after it scatters its output.
STREAM_AXES = ("batch", "sequence", "embed")


class Block(nnx.Module):
    """A mixer and a feed-forward layer around a residual stream, or one of them; between them attention to a source."""

    def __init__(
        self, config: ModelConfig, layer: Layer, make: ParameterMaker, sublayers_before: jax.Array | int
    ) -> None:
        """Args: the model's options, the mechanisms of this layer, the maker, the number of sublayers before it."""
        reductions = config.precision.reductions
        settings = LayerSettings(
            sublayers=layer.sublayers,
            width=config.width,
            norm=config.norm,
            layer_scale=config.layer_scale,
            multiplier=config.factors.residual,
            dropout=config.dropout.residual,
            reductions=reductions,
            unnormed=layer.sublayers[:1] if layer.unnormed else (),
        )
        mixer, ffn, width, dropout = layer.mixer, layer.ffn, config.width, config.dropout.attention
        self.mixer = None if mixer is None else mixer.build(width, dropout, reductions, make, layer.position)
        self.ffn = None if ffn is None else ffn.build(width, reductions, make)
        self.cross = None if layer.cross is None else layer.cross.build(width, dropout, reductions, make)
        # Last, so that the initial parameters of sublayers do not depend on the random draws of the scheme.
        self.residual = config.residual.build(settings, make, sublayers_before)
        vectors = config.per_layer_embedding
        self.per_layer = None if vectors is None else PerLayerInput(vectors, width, config.norm, make, reductions)
        start = config.stream_scale
        self.stream_scale = None if start is None else make.constant("gain", start, (1,), (None,))

    def __call__(self, stream: Any, context: Context, cache: Any) -> tuple[Any, Any]:
        """Returns the residual stream after this layer, and the cache of this layer."""
        source = None
        if isinstance(cache, DecoderLayerCache):
            cache, source = cache.mixer, cache.source
        if self.mixer is not None:
            x_BTD, stream = self.residual.read(stream, "mixer")
            y_BTD, cache = self.mixer(context.shard(x_BTD, ("batch", "query_sequence", "embed")), context, cache)
            stream = self.residual.write(stream, context.shard(y_BTD, STREAM_AXES), "mixer", context)
        if self.cross is not None:
            x_BTD, stream = self.residual.read(stream, "cross")
            y_BTD, source = self.cross(context.shard(x_BTD, ("batch", "query_sequence", "embed")), context, source)
            stream = self.residual.write(stream, context.shard(y_BTD, STREAM_AXES), "cross", context)
        if self.ffn is not None:
            x_BTD, stream = self.residual.read(stream, "ffn")
            ffn, x_BTD = gradients_together(self.ffn, x_BTD)
            y_BTD = ffn(context.shard(x_BTD, ("batch", "ffn_sequence", "embed")), context)
            stream = self.residual.write(stream, context.shard(y_BTD, STREAM_AXES), "ffn", context)
        if self.per_layer is not None:
            stream = shard_stream(stream + self.per_layer(stream, context), context)
        if (scale := self.stream_scale) is not None:
            stream = jax.tree.map(lambda x: x * cast_like(scale[...], x), stream)
        stream = context.tap("block_output", stream)
        context.offer("stream_squares", lambda: _mean_square(stream))
        return stream, cache if source is None else DecoderLayerCache(cache, source)


def _mean_square(stream: jax.Array) -> jax.Array:
    """Returns the mean square of each token, (B, T)."""
    return jnp.mean(jnp.square(stream.astype(jnp.float32)), axis=tuple(range(2, stream.ndim)))
