"""The whole model: embed, run the stacked blocks, normalise, unembed.

Above this file everything is a pure function of parameters, a nested dict of arrays:

    params = init(config, key)                      # one array per kind of weight, layers stacked in front
    output = stream(config, params, tokens_BT)      # output.stream_BTD, after the final norm
    logits_BTV = logits(config, params, output.stream_BTD)
    output = forward(config, params, tokens_BT)     # the two together: output.logits_BTV

Logits of all tokens are large: whoever needs those of a few takes these from the stream.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.attention.visibility import Coordinates, causal, documents
from model.config import ModelConfig
from model.errors import UserError
from model.interfaces import AttentionOption
from model.layout import ONE_DEVICE, Layout
from model.norms import LayerNorm, Norm, RMSNorm
from model.options import check, nearest
from model.output import Output, WholeOutput
from model.parameters import ParameterMaker, specs_of
from model.positions.absolute import Position, PositionEmbedding
from model.positions.rotary import RotaryTable, rotary_table
from model.precision import for_compute
from model.stack import LayerCaches, length_of, new_blocks, run
from model.taps import Context, Surroundings
from model.vocabulary.embedding import Embedding
from model.vocabulary.multi_token import Text
from model.vocabulary.multi_token_modules import look_ahead, new_modules

Params = dict[str, Any]
STACKED = ("blocks", "multi_token")  # parameters with layers or depths in front


class Transformer(nnx.Module):
    """A decoder-only Transformer whose layers lie stacked along a leading axis."""

    def __init__(self, config: ModelConfig, key: jax.Array) -> None:
        """Args: the options, and the key that every parameter is drawn from."""
        embedding_key, position_key, blocks_key, norm_key = jax.random.split(key, 4)

        def make(key: jax.Array) -> ParameterMaker:
            return ParameterMaker(key, config.initialization, config.num_layers, config.precision.parameters)

        def norm(option: LayerNorm | RMSNorm | None) -> Norm | None:
            reductions = config.precision.reductions
            return None if option is None else Norm(option, (config.width,), ("embed",), make(norm_key), reductions)

        self.config = config
        width, cap, multipliers = config.width, config.final_logit_softcap, config.multipliers
        normed, maker = norm(config.embedding_norm), make(embedding_key)
        self.embedding = Embedding(config.unembedding, config.vocab_size, width, cap, multipliers, maker, normed)
        self.position = PositionEmbedding(config.position, config.context_length, width, make(position_key))
        self.blocks = new_blocks(config, blocks_key, make)
        self.multi_token = new_modules(config, jax.random.fold_in(key, 0), make)
        self.final_norm = norm(config.norm if config.residual.final_norm else None)

    def __call__(self, text: Text, positions_BT: jax.Array, context: Context, cache: LayerCaches | None) -> Output:
        """Runs the model on token ids; see `stream`."""
        x_BTD = self.embedding.embed(text.tokens_BT, self.config.precision.compute, context.layout)
        x_BTD = context.dropout(self.position(x_BTD, positions_BT), self.config.dropout.embedding)
        x_BTD = context.tap("embedding", context.shard(x_BTD, ("batch", "sequence", "embed")))
        x_BTD, cache, collected = run(self.config, self.blocks, x_BTD, context, cache)
        collected = look_ahead(self.config, self.multi_token, self.embedding, x_BTD, text, context, collected)
        if self.final_norm is not None:
            x_BTD = self.final_norm(x_BTD)
        x_BTD = context.tap("final_norm", x_BTD)
        return Output(x_BTD, cache, context.kept | collected.taps, collected.losses, collected.measured)


@functools.lru_cache(maxsize=64)
def _graph(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """The structure of the module tree and its abstract parameters, without making an array."""
    check(config, "model")
    return nnx.split(nnx.eval_shape(lambda: Transformer(config, jax.random.key(0))))


def init(config: ModelConfig, key: jax.Array) -> Params:
    """Draws the parameters. Under jit with out_shardings each device draws only its own shards."""
    check(config, "model")
    return nnx.to_pure_dict(nnx.split(Transformer(config, key))[1])


def abstract_params(config: ModelConfig) -> Params:
    """The parameters' shapes and dtypes, as the tree that `init` returns."""
    return nnx.to_pure_dict(_graph(config)[1])


def specs(config: ModelConfig) -> Params:
    """What every parameter is, as the tree that `init` returns, with a `model.specs.Spec` for each leaf."""
    found: Params = specs_of(_graph(config)[1])
    return found


def logical_axes(config: ModelConfig) -> Params:
    """The logical names of every parameter's axes, as the tree that `init` returns, with tuples for leaves."""
    return jax.tree.map(lambda spec: spec.axes, specs(config))


def _model(config: ModelConfig, params: Params) -> Transformer:
    """The modules with their parameters; those of layers are cast later, layer by layer."""
    single = {name: tree for name, tree in params.items() if name not in STACKED}
    known = {name: tree for name, tree in specs(config).items() if name not in STACKED}
    model: Transformer = nnx.merge(_graph(config)[0], params | for_compute(single, known, config.precision))
    return model


def stream(
    config: ModelConfig,
    params: Params,
    tokens_BT: jax.Array,
    *,
    positions_BT: jax.Array | None = None,
    segment_ids_BT: jax.Array | None = None,
    cache: LayerCaches | None = None,
    lengths_B: jax.Array | None = None,
    dropout_key: jax.Array | None = None,
    counted_BT: jax.Array | None = None,
    targets_BT: jax.Array | None = None,
    layout: Layout = ONE_DEVICE,
    taps: Iterable[str] = (),
) -> Output:
    """Runs the model as a pure function, up to the residual stream after the final norm.

    Args:
      config: the options.
      params: the tree of `init`.
      tokens_BT: token ids, int32.
      positions_BT: the position of each token, in a document each beyond the one before; 0 to T-1 when not given.
        With a cache it is also the token's slot.
      segment_ids_BT: the document of each token, which then sees no other document; not together with a cache.
      cache: the cache to read and extend; None attends within the tokens alone.
      lengths_B: the tokens of each row's prompt but the last; those at later positions are padding, and leave a
        recurrent state alone.
      dropout_key: a key switches dropout on.
      counted_BT: how much each token counts in losses and measurements; without it there are none.
      targets_BT: the token that comes next to each, for losses that need it (model/vocabulary/multi_token.py).
      layout: how activations lie on devices; see model/layout.py.
      taps: names of intermediates to return: per layer stacked in front, such as "attention_weights" (L, B, N, T, S).

    Raises:
      UserError: for options that clash, a sequence longer than the context, or an unknown tap.
    """
    length = tokens_BT.shape[1]
    if length > config.context_length:
        raise UserError(
            f"a sequence of {length} tokens is longer than the model's context_length={config.context_length}"
        )
    index_BT = jnp.arange(length, dtype=jnp.int32)[None]
    if cache is None:
        # Where positions start again within a row and nothing tells documents apart, a window's keys may be anywhere
        # earlier in the row.
        in_order = positions_BT is None or segment_ids_BT is not None
        tokens = Coordinates(length, position=positions_BT, document=segment_ids_BT)
        visibility = causal(tokens, in_order=in_order)
    else:
        if segment_ids_BT is not None:
            raise UserError("segment ids do not go together with a cache; a cached row is one document")
        index_BT = jnp.broadcast_to(index_BT if positions_BT is None else positions_BT, tokens_BT.shape)
        visibility = causal(Coordinates(length, index=index_BT), Coordinates(length_of(cache)))
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(index_BT, tokens_BT.shape)

    @functools.cache
    def rotary(position: Position, head_dim: int) -> RotaryTable | None:
        return rotary_table(position, positions_BT, head_dim, None if lengths_B is None else lengths_B[:, None])

    layers = {}
    for layer in config.layers:
        if not isinstance(layer.attention, AttentionOption):
            real_BT = None if lengths_B is None else positions_BT < lengths_B[:, None]
            layers[layer] = Surroundings(document_BT=documents(segment_ids_BT), real_BT=real_BT)
            continue
        layers[layer] = Surroundings(rotary=rotary(layer.position, layer.attention.rotary_width(config.width)))
    context = Context(
        index_BT=index_BT,
        visibility=visibility,
        layers=layers,
        dropout_key=dropout_key,
        counted_BT=counted_BT,
        layout=layout,
        wanted=frozenset(taps),
    )
    model = _model(config, params)
    output = model(Text(tokens_BT, targets_BT, segment_ids_BT), positions_BT, context, cache)
    for name in context.wanted - output.taps.keys():
        raise UserError(f"no tap is called {name!r}; {nearest(name, context.offered)}")
    return output


def logits(config: ModelConfig, params: Params, stream_BTD: jax.Array, *, layout: Layout = ONE_DEVICE) -> jax.Array:
    """The logits of a stream, (B, T, V) in the format of reductions; T may be any part of the tokens.

    Args:
      config: the options.
      params: the tree of `init`.
      stream_BTD: `Output.stream_BTD` of `stream`, or some of its tokens.
      layout: how activations lie on devices.
    """
    return _model(config, params).embedding.unembed(stream_BTD, config.precision.reductions, layout)


def forward(
    config: ModelConfig, params: Params, tokens_BT: jax.Array, *, layout: Layout = ONE_DEVICE, **options: Any
) -> WholeOutput:
    """`stream` and the logits of all its tokens; the arguments are those of `stream`."""
    output = stream(config, params, tokens_BT, layout=layout, **options)
    logits_BTV = logits(config, params, output.stream_BTD, layout=layout)
    return WholeOutput(**vars(output), logits_BTV=logits_BTV)
