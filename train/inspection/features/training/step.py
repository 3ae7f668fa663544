"""One update of every autoencoder, from the activations of one forward pass: a pure function, compiled once."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from train.inspection.features.autoencoders.interface import Inputs, Loss, Params
from train.inspection.features.training.settings import Autoencoder, Features
from train.inspection.features.training.state import AutoencoderState, adam, centred, init, measure, placements
from train.inspection.features.training.stream import Block, take
from train.parallel.table import MeshLayout, replicated
from train.schedules import learning_rate

States = dict[str, AutoencoderState]
Metrics = dict[str, jax.Array]


def loss_of(
    option: Autoencoder, params: Params, inputs: Inputs, dead_M: jax.Array, step: jax.Array
) -> tuple[jax.Array, Loss]:
    """The loss of inputs whose decoder bias has not been subtracted yet, and its parts."""
    inputs = inputs._replace(x_BD=centred(option, params, inputs.x_BD))
    loss = option.architecture.loss(params, inputs, dead_M, step)
    return loss.total, loss


def update(
    option: Autoencoder, features: Features, state: AutoencoderState, inputs: Inputs, step: jax.Array
) -> tuple[AutoencoderState, Metrics]:
    """One update of one autoencoder; `inputs` are normalised. Returns the next state, and its measures."""
    dead_M = state.silent_M >= features.dead_after
    loss_and_grad = jax.value_and_grad(functools.partial(loss_of, option), has_aux=True)
    (total, loss), grads = loss_and_grad(state.params, inputs, dead_M, step)
    if option.unit_decoder:
        grads = grads | {"decoder": _tangent(grads["decoder"], state.params["decoder"])}
    norm = optax.tree.norm(grads)
    if features.clip_norm is not None:
        grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, features.clip_norm / (norm + 1e-12)), grads)
    updates, moments = adam(features.optimizer).update(grads, state.moments)
    rate = learning_rate(features.schedule, step, features.num_steps)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    if option.unit_decoder:
        params["decoder"] /= jnp.linalg.norm(params["decoder"], axis=1, keepdims=True)
    params = option.architecture.after_step(params, loss.features_BM, inputs.weights_B)
    fired_BM = (loss.features_BM > 0) & (inputs.weights_B[:, None] > 0)
    tokens = jnp.sum(inputs.weights_B).astype(jnp.int32)
    silent_M = jnp.where(jnp.any(fired_BM, axis=0), 0, jnp.minimum(state.silent_M + tokens, features.dead_after))
    spread = inputs.mean_square(_weighted_mean(inputs.target_BO, inputs.weights_B))
    metrics = {
        "loss": total,
        **{name: value for name, value in loss.terms.items() if len(loss.terms) > 1},
        "explained_variance": 1.0 - loss.terms["reconstruction"] / jnp.maximum(spread, 1e-30),
        "l0": inputs.mean(jnp.sum(fired_BM, axis=1, dtype=jnp.float32)),
        "dead_share": jnp.mean(silent_M >= features.dead_after, dtype=jnp.float32),
        "grad_norm": norm,
    }
    return dataclasses.replace(state, params=params, moments=moments, silent_M=silent_M), metrics


def _tangent(grad_MO: jax.Array, decoder_MO: jax.Array) -> jax.Array:
    """The gradient without its part along each direction, which would change its length alone."""
    along_M = jnp.sum(grad_MO * decoder_MO, axis=1) / jnp.sum(jnp.square(decoder_MO), axis=1)
    return grad_MO - along_M[:, None] * decoder_MO


def _weighted_mean(x_BO: jax.Array, weights_B: jax.Array) -> jax.Array:
    return weights_B @ x_BO / jnp.maximum(jnp.sum(weights_B), 1.0)


def resample(
    option: Autoencoder, features: Features, state: AutoencoderState, inputs: Inputs, step: jax.Array
) -> AutoencoderState:
    """Gives dead features new directions, and begins to count their silence again."""
    resampler = option.architecture.resampler()
    assert resampler is not None
    dead_M = state.silent_M >= features.dead_after
    loss = loss_of(option, state.params, inputs, dead_M, step)[1]
    key = jax.random.fold_in(jax.random.key(features.seed + 1), step)
    centred_inputs = inputs._replace(x_BD=centred(option, state.params, inputs.x_BD))
    params = resampler.resample(state.params, centred_inputs, loss.output_BO, dead_M, key)

    def forget(moment: jax.Array, name: str) -> jax.Array:
        if name == "encoder" or (moment.shape == dead_M.shape and name != "decoder_bias"):
            return jnp.where(dead_M, 0.0, moment)
        return jnp.where(dead_M[:, None], 0.0, moment) if name == "decoder" else moment

    moments = state.moments._replace(
        mu={name: forget(x, name) for name, x in state.moments.mu.items()},
        nu={name: forget(x, name) for name, x in state.moments.nu.items()},
    )
    return dataclasses.replace(state, params=params, moments=moments, silent_M=jnp.where(dead_M, 0, state.silent_M))


class Programs:
    """The compiled functions of a training.

    Attributes:
      place: the places of all states.
    """

    def __init__(self, features: Features, num_layers: int, widths: dict[Any, int], layout: MeshLayout) -> None:
        """Args: the options, the number of layers, the width at each site, the layout of activations."""
        self.features, self.layout, self.widths = features, layout, widths
        self.sites = {each.name: each.sites(num_layers) for each in features.autoencoders}
        self.place = placements(jax.eval_shape(self._init, self.abstract_block()), layout)
        self.init = jax.jit(self._init, out_shardings=self.place)
        everywhere = replicated(layout.mesh)
        self.step = jax.jit(self._step, out_shardings=(self.place, everywhere), donate_argnums=0)
        self.resample = jax.jit(self._resample, out_shardings=self.place, donate_argnums=0, static_argnums=4)

    def abstract_block(self) -> Block:
        """The shapes of a small block, for those of the states."""
        arrays: Any = {site: jax.ShapeDtypeStruct((1, 2, width), jnp.float32) for site, width in self.widths.items()}
        weights: Any = jax.ShapeDtypeStruct((1, 2), jnp.float32)
        order: Any = jax.ShapeDtypeStruct((2,), jnp.int32)
        return Block(arrays, weights, order)

    def _init(self, block: Block) -> States:
        states = {}
        for number, option in enumerate(self.features.autoencoders):
            into, out = self.sites[option.name]
            key = jax.random.fold_in(jax.random.key(self.features.seed), number)
            measured = measure(block, into, option.normalize), measure(block, out, option.normalize)
            widths = self.widths[into], self.widths[out]
            states[option.name] = init(option, self.features.optimizer, widths, measured, key)
        return states

    def _inputs(self, option: Autoencoder, state: AutoencoderState, block: Block, first: jax.Array) -> Inputs:
        tokens = take(block, first, self.features.batch_tokens)
        into, out = self.sites[option.name]
        shard = functools.partial(self.layout.constrain, axes=("batch", "embed"))
        x_BD = shard(tokens.activations[into].astype(jnp.float32)) * state.input_scale
        target_BO = shard(tokens.activations[out].astype(jnp.float32)) * state.output_scale
        return Inputs(x_BD, target_BO, tokens.weights_B)

    def _step(
        self, states: States, block: Block, first: jax.Array, step: jax.Array
    ) -> tuple[States, dict[str, Metrics]]:
        found = {
            option.name: update(
                option,
                self.features,
                states[option.name],
                self._inputs(option, states[option.name], block, first),
                step,
            )
            for option in self.features.autoencoders
        }
        return {name: state for name, (state, _) in found.items()}, {name: m for name, (_, m) in found.items()}

    def _resample(
        self, states: States, block: Block, first: jax.Array, step: jax.Array, names: tuple[str, ...]
    ) -> States:
        chosen = [option for option in self.features.autoencoders if option.name in names]
        return states | {
            option.name: resample(
                option,
                self.features,
                states[option.name],
                self._inputs(option, states[option.name], block, first),
                step,
            )
            for option in chosen
        }
