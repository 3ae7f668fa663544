"""The whole model: embedding, stacked blocks, final norm, unembedding.

Callers of this file use pure functions of parameters, a nested dict of arrays:

    params = init(config, key)                      # one array per kind of weight, with a leading layer axis
    output = stream(config, params, tokens_BT)      # output.stream_BTD, after the final norm
    logits_BTV = logits(config, params, output.stream_BTD)
    output = forward(config, params, tokens_BT)     # the two together: output.logits_BTV

Losses, and logits of a few tokens, are computed from the stream and `unembedding`: logits of all tokens are large.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
from flax import nnx

from model.config import ModelConfig
from model.context import Context, Rows
from model.encoder.module import new_encoder, with_source
from model.encoder.source import Source
from model.layout import ONE_DEVICE, Layout
from model.norms import new_norm
from model.options.tree import check
from model.output import Output, OutputWithLogits
from model.parameters.maker import maker_of, specs_of, without_values
from model.parameters.precision import outside_of_layers
from model.positions.absolute import PositionEmbedding
from model.positions.shared import new_shared_bias
from model.recompute import saved_taps
from model.stack import LayerCaches, new_blocks, run_layers
from model.stages.pipeline import run_layers_in_stages
from model.taps.request import Tap, Taps, refuse_unused, resolve
from model.token_positions import inputs_of_rows
from model.vocabulary.embedding import new_embedding
from model.vocabulary.multi_token import TokenBatch
from model.vocabulary.multi_token_modules import add_multi_token_loss, new_multi_token_modules
from model.vocabulary.per_layer import new_per_layer_vectors
from model.vocabulary.pooling import new_pooler
from model.vocabulary.prediction_head import new_prediction_head
from model.vocabulary.score_head import new_score_head, scores_of
from model.vocabulary.token_types import new_token_types, with_types
from model.vocabulary.unembedding import Unembedding

Params = dict[str, Any]


class Transformer(nnx.Module):
    """A Transformer whose layers are stacked along a leading axis: a decoder or an encoder, or both."""

    def __init__(self, config: ModelConfig, key: jax.Array) -> None:
        """Args: the options, and the random key that draws every parameter."""
        embedding_key, position_key, blocks_key, norm_key = jax.random.split(key, 4)
        self.config, make = config, maker_of(config)
        norm = functools.partial(new_norm, config.width, make(norm_key), config.precision.reductions)
        self.embedding = new_embedding(config, make(embedding_key), norm(config.embedding_norm))
        self.position = PositionEmbedding(config.position, config.context_length, config.width, make(position_key))
        self.blocks = new_blocks(config, blocks_key, functools.partial(make, growth=config.growth))
        self.multi_token = new_multi_token_modules(config, jax.random.fold_in(key, 0), make)
        self.final_norm = norm(config.norm if config.residual.final_norm else None)
        self.per_layer = new_per_layer_vectors(config, make(jax.random.fold_in(key, 1)))
        self.score_head = new_score_head(config, make(jax.random.fold_in(key, 2)))
        self.input_norm = norm(config.input_norm)
        self.token_types = new_token_types(config, make(jax.random.fold_in(key, 3)))
        self.head = new_prediction_head(config, make(jax.random.fold_in(key, 4)))
        self.pooler = new_pooler(config, make(jax.random.fold_in(key, 5)))
        self.position_bias = new_shared_bias(config.layers, make(jax.random.fold_in(key, 6)))
        self.encoder = new_encoder(config, jax.random.fold_in(key, 7), make)

    def __call__(self, batch: TokenBatch, context: Context, cache: LayerCaches | None) -> Output:
        """Runs the model on token ids; see `stream`."""
        context = with_source(self.encoder, self.embedding, context.with_shared_bias(self.position_bias))
        x_BTD = self.embedding.embed(batch.tokens_BT, self.config.precision.compute, context.layout)
        vectors = None if self.per_layer is None else self.per_layer(batch.tokens_BT, x_BTD, context.layout)
        x_BTD = self.position(with_types(self.token_types, x_BTD, batch.token_types_BT), context.site.positions_BT)
        x_BTD = x_BTD if self.input_norm is None else self.input_norm(x_BTD)
        x_BTD = context.dropout(x_BTD, self.config.dropout.embedding)
        x_BTD = context.tap("embedding", context.shard(x_BTD, ("batch", "sequence", "embed")))
        run = run_layers if context.layout.pipeline is None else run_layers_in_stages
        x_BTD, cache, aux = run(self.config, self.blocks, x_BTD, context, cache, vectors)
        aux = add_multi_token_loss(self.config, self.multi_token, self.embedding, x_BTD, batch, context, aux)
        x_BTD = context.tap("final_norm", x_BTD if self.final_norm is None else self.final_norm(x_BTD))
        return Output(x_BTD, cache, context.kept_taps | aux.taps, aux.losses, aux.measurements)


@functools.lru_cache(maxsize=64)
@without_values()
def _abstract_model(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """Returns the structure of the module tree and its abstract parameters; makes no array."""
    check(config, "model")
    return nnx.split(nnx.eval_shape(lambda: Transformer(config, jax.random.key(0))))


def init(config: ModelConfig, key: jax.Array) -> Params:
    """Draws the parameters. Under jit with out_shardings each device draws only its own shards."""
    check(config, "model")
    return nnx.to_pure_dict(nnx.split(Transformer(config, key))[1])


def abstract_params(config: ModelConfig) -> Params:
    """Returns the parameters' shapes and dtypes, as the tree that `init` returns."""
    return nnx.to_pure_dict(_abstract_model(config)[1])


def specs(config: ModelConfig) -> Params:
    """Returns the `model.parameters.specs.Spec` of every parameter, in the tree that `init` returns."""
    return dict(specs_of(_abstract_model(config)[1]))


def logical_axes(config: ModelConfig) -> Params:
    """Returns the logical axis names of every parameter, tuples in the tree that `init` returns."""
    return jax.tree.map(lambda spec: spec.axes, specs(config))


def model_of(config: ModelConfig, params: Params) -> Transformer:
    """Returns the modules with their parameters; parameters of layers are cast later, layer by layer."""
    outside = outside_of_layers(params, specs(config), config.precision)
    model: Transformer = nnx.merge(_abstract_model(config)[0], outside)
    return model


def stream(
    config: ModelConfig,
    params: Params,
    tokens_BT: jax.Array,
    *,
    positions_BT: jax.Array | None = None,
    segment_ids_BT: jax.Array | None = None,
    consecutive_positions: bool = False,
    cache: LayerCaches | None = None,
    lengths_B: jax.Array | None = None,
    text_lengths_B: jax.Array | None = None,
    dropout_key: jax.Array | None = None,
    weights_BT: jax.Array | None = None,
    targets_BT: jax.Array | None = None,
    token_types_BT: jax.Array | None = None,
    prefix_BT: jax.Array | None = None,
    layout: Layout = ONE_DEVICE,
    taps: Taps | Iterable[str | Tap] = (),
    source: Source | None = None,
) -> Output:
    """Runs the model as a pure function, up to the residual stream after the final norm.

    Args:
      config, params, tokens_BT: the options, the tree of `init`, token ids (int32).
      positions_BT: positions, which increase within a document; 0 to T-1 by default. With a cache also slots.
      segment_ids_BT: the document of each token; a token sees no other document. Not together with a cache.
      consecutive_positions: promises that positions of neighbours in a document differ by one, for kernels.
      cache: the cache to read and extend; None attends within the tokens alone.
      lengths_B: the real tokens of each row, read before or now; later ones are padding and change no state; or None.
      text_lengths_B: the tokens of each row's whole text, for positions that depend on them; by default those so far.
      dropout_key: a key switches dropout on; with a pipeline, one key for each micro-batch (M,).
      weights_BT, targets_BT: the weight of each token in losses and measurements; the next token of each; or None.
      token_types_BT: the type of each token, in a model that has types; None for type 0.
      prefix_BT: with PrefixLM(), the length of the prefix of each token's document, or of each row (B, 1); or None.
      layout: the layout of activations over devices; see model/layout.py.
      taps: names of intermediates to return, such as "attention_weights" (L, B, N, T, S), or a value of `Taps`.
      source: the source of a model with an encoder; with a cache, in the first pass alone, which keeps what it needs.

    Raises UserError for options that clash, a sequence longer than the context, or taps that do not exist.
    """
    rows = Rows(tokens_BT, positions_BT, segment_ids_BT, lengths_B, text_lengths_B, weights_BT, prefix_BT, source)
    context = Context(
        **inputs_of_rows(config, rows, cached=cache is not None, consecutive_positions=consecutive_positions),
        dropout_key=dropout_key,
        layout=layout,
        kernels=config.kernels,
        taps=resolve(taps, config.num_layers),
        saved_taps=saved_taps(config.remat),
    )
    output = model_of(config, params)(TokenBatch(tokens_BT, targets_BT, segment_ids_BT, token_types_BT), context, cache)
    refuse_unused(context.taps, context.saved_taps, context.offered_taps)
    return output


def logits(config: ModelConfig, params: Params, stream_BTD: jax.Array, *, layout: Layout = ONE_DEVICE) -> jax.Array:
    """Returns the logits (B, T, V) of a stream: `Output.stream_BTD` of `stream`, or some of its tokens."""
    return unembedding(config, params).logits(stream_BTD, layout)


def scores(config: ModelConfig, params: Params, stream_BTD: jax.Array, *, layout: Layout = ONE_DEVICE) -> jax.Array:
    """Returns the numbers of `config.score_head` for every token of a stream, float32 (B, T, outputs)."""
    return scores_of(model_of(config, params).score_head, stream_BTD, layout)


def unembedding(config: ModelConfig, params: Params) -> Unembedding:
    """Returns the map from a stream to logits, for the losses of model/vocabulary/cross_entropy.py."""
    model = model_of(config, params)
    return model.embedding.unembedding(config.precision.reductions, model.head)


def forward(
    config: ModelConfig, params: Params, tokens_BT: jax.Array, *, layout: Layout = ONE_DEVICE, **options: Any
) -> OutputWithLogits:
    """Runs `stream` and computes the logits of all its tokens; the arguments are those of `stream`."""
    output = stream(config, params, tokens_BT, layout=layout, **options)
    return OutputWithLogits(**vars(output), logits_BTV=logits(config, params, output.stream_BTD, layout=layout))
