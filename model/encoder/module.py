"""The layers that encode a source."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from model.config import ModelConfig
from model.context import Context, Rows
from model.encoder.source import EncodedSource, Source
from model.errors import UserError
from model.norms import new_norm
from model.parameters.maker import ParameterMaker
from model.positions.absolute import PositionEmbedding
from model.positions.shared import new_shared_bias
from model.stack import new_blocks, run_layers
from model.token_positions import inputs_of_rows
from model.vocabulary.embedding import Embedding

OF_ENCODER = 2**31  # folded into a dropout key: no layer of the decoder has this number


class EncoderStack(nnx.Module):
    """Positions, layers and the last norm of an encoder."""

    def __init__(self, config: ModelConfig, key: jax.Array, make: Callable[[jax.Array], ParameterMaker]) -> None:
        """Args: the config of the decoder, the key of all parameters, the function from a key to a maker."""
        assert config.encoder is not None
        self.config = own = config.encoder.as_model(config)
        position_key, blocks_key, norm_key, bias_key = jax.random.split(key, 4)
        self.position = PositionEmbedding(own.position, own.context_length, own.width, make(position_key))
        self.position_bias = new_shared_bias(own.layers, make(bias_key))
        self.blocks = new_blocks(own, blocks_key, make)
        norm = functools.partial(new_norm, own.width, make(norm_key), own.precision.reductions)
        self.input_norm = norm(own.input_norm)
        self.final_norm = norm(own.norm if own.residual.final_norm else None)

    def __call__(self, source: Source, embedding: Embedding, context: Context) -> EncodedSource:
        """Returns the stream of a source, in the pass of a target with this context."""
        config, tokens_BS = self.config, source.tokens_BS
        own = self._context(source, context)
        x_BSD = embedding.embed(tokens_BS, config.precision.compute, own.layout)
        x_BSD = self.position(x_BSD, own.site.positions_BT)
        x_BSD = x_BSD if self.input_norm is None else self.input_norm(x_BSD)
        x_BSD = own.shard(own.dropout(x_BSD, config.dropout.embedding), ("batch", "sequence", "embed"))
        x_BSD, _, _ = run_layers(config, self.blocks, x_BSD, own, None)
        x_BSD = x_BSD if self.final_norm is None else self.final_norm(x_BSD)
        return EncodedSource(x_BSD, source.segment_ids_BS)

    def _context(self, source: Source, context: Context) -> Context:
        """Returns the context of the source: no taps, no losses, no causal order, dropout with a key of its own."""
        rows = Rows(source.tokens_BS, source.positions_BS, source.segment_ids_BS)
        inputs: dict[str, Any] = inputs_of_rows(config=self.config, rows=rows, consecutive_positions=False)
        key = context.dropout_key
        return Context(
            **inputs | {"visibility": dataclasses.replace(inputs["visibility"], causal=False)},
            dropout_key=None if key is None else jax.random.fold_in(key, OF_ENCODER),
            layout=context.layout,
            kernels=context.kernels,
            saved_taps=context.saved_taps,
            shared_bias=None if self.position_bias is None else self.position_bias[...],
        )


def new_encoder(
    config: ModelConfig, key: jax.Array, make: Callable[[jax.Array], ParameterMaker]
) -> EncoderStack | None:
    """Returns the encoder of a model; None for a model without."""
    return None if config.encoder is None else EncoderStack(config, key, make)


def with_source(encoder: EncoderStack | None, embedding: Embedding, context: Context) -> Context:
    """Returns the context of a target's layers, with the source of its rows after the encoder.

    Raises UserError for a pipeline, which has no stages for an encoder.
    """
    source = None if context.rows is None else context.rows.source
    if encoder is None or source is None:
        return context
    if context.layout.pipeline is not None:
        raise UserError("a model with an encoder does not run in stages; leave the mesh axis 'stage' out")
    return dataclasses.replace(context, source=encoder(source, embedding, context))
