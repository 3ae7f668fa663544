"""The modules of multi-token prediction, and their loss; the equations are in multi_token.py."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.block import Block
from model.config import ModelConfig
from model.context import Context
from model.errors import UserError
from model.norms import Norm
from model.parameters.maker import ParameterMaker, specs_of, stack_modules
from model.parameters.precision import for_compute
from model.parameters.projections import project
from model.recompute import rematerialized
from model.stack import AuxOutputs, Unstacked, is_scanned, scan_or_unroll
from model.vocabulary.cross_entropy import total_nll
from model.vocabulary.embedding import Embedding
from model.vocabulary.multi_token import TokenBatch, shift_left


class MultiTokenModule(nnx.Module):
    """One module: maps the stream of the module before it and the embedding of a later token to the next stream."""

    def __init__(self, config: ModelConfig, make: ParameterMaker, sublayers_before: jax.Array | int) -> None:
        """Args: the model's options, the maker, the number of sublayers before it."""

        def norm() -> Norm:
            return Norm(config.norm, (config.width,), ("embed",), make, config.precision.reductions)

        shape = (2 * config.width, config.width)
        self.residual = config.residual
        self.stream_norm, self.token_norm = norm(), norm()
        self.projection = make.matrix("projection", shape, ("embed", "embed"))
        self.block = Block(config, config.layers[-1], make, sublayers_before)
        self.final_norm = norm() if config.residual.final_norm else None

    def __call__(
        self, x_BTD: jax.Array, token_BTD: jax.Array, context: Context, cache: Any = None
    ) -> tuple[jax.Array, Any]:
        """Computes equations 21 and 22, (B, T, D); also returns the cache of its block."""
        joined_BTE = jnp.concatenate([self.stream_norm(x_BTD), self.token_norm(token_BTD)], axis=-1)
        x_BTD = context.shard(project(joined_BTE, self.projection, context.layout), ("batch", "sequence", "embed"))
        stream, cache = self.block(self.residual.enter(x_BTD), context, cache)
        return self.residual.leave(stream), cache

    def normed(self, x_BTD: jax.Array) -> jax.Array:
        """Returns the input of the unembedding, from the module's stream."""
        return x_BTD if self.final_norm is None else self.final_norm(x_BTD)


def new_multi_token_modules(
    config: ModelConfig, key: jax.Array, make: Callable[[jax.Array], ParameterMaker]
) -> nnx.Module | None:
    """Returns the modules, parameters with a leading depth axis; None for a model without them."""
    if config.multi_token is None:
        return None
    keys = jax.random.split(key, config.multi_token.depth)
    layers = config.layers
    sublayers_before = sum(len(layer.sublayers) for layer in layers) + jnp.arange(len(keys)) * len(layers[-1].sublayers)
    return stack_modules(lambda key, before: MultiTokenModule(config, make(key), before), keys, sublayers_before)


def run_module(
    config: ModelConfig,
    modules: nnx.Module,
    embedding: Embedding,
    number: int,
    x_BTD: jax.Array,
    tokens_BT: jax.Array,
    context: Context,
    cache: Any,
) -> tuple[jax.Array, jax.Array, Any]:
    """Runs one module after a pass of the layers, to guess tokens.

    Args:
      config, modules, embedding: of the model.
      number: that of the module, from 0.
      x_BTD: the residual stream after the last layer, or after the module before.
      tokens_BT: the token `number` + 1 places after each.
      context: the context of the pass.
      cache: the cache of the module's block.

    Returns:
      The stream after the module, the same before the unembedding, and the cache with these tokens.
    """
    graph, state = nnx.split(modules)
    params = jax.tree.map(lambda a: a[number], nnx.to_pure_dict(state), is_leaf=lambda x: isinstance(x, Unstacked))
    module: Any = nnx.merge(graph, for_compute(params, specs_of(state), config.precision))
    inner = context.for_layer(config.num_layers + number, config.layers[-1])
    token_BTD = embedding.embed(tokens_BT, config.precision.compute, context.layout)
    x_BTD, cache = module(x_BTD, token_BTD, inner, cache)
    return x_BTD, module.normed(x_BTD), cache


def add_multi_token_loss(
    config: ModelConfig,
    modules: nnx.Module | None,
    embedding: Embedding,
    x_BTD: jax.Array,
    batch: TokenBatch,
    context: Context,
    aux: AuxOutputs,
) -> AuxOutputs:
    """Adds the losses and measurements of the modules to those of the layers; without `weights_BT` no module runs.

    Args:
      config: the model's options.
      modules: the result of `new_multi_token_modules`.
      embedding: the model's embedding.
      x_BTD: the residual stream after the last layer.
      batch: the tokens to read and to predict.
      context: the context of the forward pass.
      aux: the results of the layers.

    Raises:
      UserError: for weights without targets.
    """
    option = config.multi_token
    if option is None or context.weights_BT is None:
        return aux
    if batch.targets_BT is None:
        raise UserError("multi_token predicts later targets and got weights_BT without targets_BT; give targets_BT too")
    graph, state = nnx.split(modules)
    specs = specs_of(state)
    segment_ids_BT = jnp.ones_like(batch.tokens_BT) if batch.segment_ids_BT is None else batch.segment_ids_BT

    def body(carry: Any, inputs: Any) -> tuple[Any, Any]:
        (x_BTD, *rest), (params, number) = carry, inputs
        tokens_BT, targets_BT, weights_BT, ids_BT = (shift_left(x_BT) for x_BT in rest)
        own_weights_BT = jnp.where(ids_BT == segment_ids_BT, weights_BT, 0.0)
        inner = dataclasses.replace(context, weights_BT=own_weights_BT)
        inner = inner.for_layer(number, config.layers[-1], aux.cross_layer)
        module: Any = nnx.merge(graph, for_compute(params, specs, config.precision))
        x_BTD, _ = module(x_BTD, embedding.embed(tokens_BT, config.precision.compute, context.layout), inner)
        unembedding = embedding.unembedding(config.precision.reductions)
        _, total = total_nll(module.normed(x_BTD), unembedding, targets_BT, own_weights_BT, context.layout)
        inner.add_loss("multi_token_loss", option.weight / option.depth * total)
        return (x_BTD, tokens_BT, targets_BT, weights_BT, ids_BT), (inner.losses, inner.measurements)

    start = (x_BTD, batch.tokens_BT, batch.targets_BT, context.weights_BT, segment_ids_BT)
    inputs = (nnx.to_pure_dict(state), config.num_layers + jnp.arange(option.depth))
    again = rematerialized(body, config.remat, is_scanned(config, option.depth))
    _, (losses, measurements) = scan_or_unroll(again, start, inputs, option.depth, config.scan_layers)
    summed = {name: aux.losses.get(name, 0.0) + jnp.sum(each, axis=0) for name, each in losses.items()}
    named = {"multi_token": measurements} if measurements else {}
    return dataclasses.replace(aux, losses=aux.losses | summed, measurements=aux.measurements | named)
