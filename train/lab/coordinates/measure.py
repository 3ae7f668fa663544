"""The sizes of a model's activations before and after a few steps of its optimizer on one batch of random tokens.

The batch is the same at every step, so that updates add up: then an activation that grows with width shows at once. No
step is clipped or skipped, and the rate is constant.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from model.config import ModelConfig
from model.errors import UserError
from model.transformer import abstract_params, forward
from model.vocabulary.cross_entropy import cross_entropy
from train.experiment import Experiment
from train.optimizers.options import set_learning_rate
from train.state import StateConfig, build_optimizer, init_state, merge_trained

# The taps that are measured where a model has them; and the logits.
TAPS = (
    "embedding",
    "query",
    "key",
    "mixer_output",
    "ffn_hidden",
    "ffn_output",
    "block_output",
    "final_norm",
)
LOGITS = "logits"
Activations = dict[str, np.ndarray]  # by kind, of all layers that have it (layers, ...); one layer for the others


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Root mean squares of one kind of activation, for each layer that has it.

    Attributes:
      start: before the first step.
      after: after the last one.
      change: of the difference between the two.
    """

    start: tuple[float, ...]
    after: tuple[float, ...]
    change: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """The sizes of one model's activations by kind, and its loss before the first and after the last step."""

    sizes: dict[str, Sizes]
    losses: tuple[float, float]


def measured_taps(model: ModelConfig) -> tuple[str, ...]:
    """The taps of `TAPS` that a model has, with one shape in all layers."""
    return tuple(name for name in TAPS if _has(model, name))


def _has(model: ModelConfig, name: str) -> bool:
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    try:
        jax.eval_shape(
            lambda params, ids: forward(model, params, ids, taps=(name,)).taps, abstract_params(model), tokens
        )
    except UserError:
        return False
    return True


def random_batch(model: ModelConfig, rows: int, length: int) -> dict[str, jax.Array]:
    """Random tokens and their targets, the same for every model with this vocabulary."""
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (rows, length + 1), np.int32)
    return {"tokens": jnp.asarray(tokens[:, :-1]), "targets": jnp.asarray(tokens[:, 1:])}


def measure(
    experiment: Experiment, *, steps: int, rate: float, seeds: Sequence[int], rows: int, length: int
) -> Iterator[Measured]:
    """Yields the sizes of an experiment's model for each seed of its parameters.

    Args:
      experiment: its model, optimizer and frozen parameters are used.
      steps: the number of updates.
      rate: the learning rate of all of them; a parametrisation scales it for each parameter.
      seeds: of the initial parameters.
      rows, length: the shape of the batch.
    """
    model, state_config = experiment.model, StateConfig.of(experiment)
    taps, batch, optimizer = measured_taps(model), random_batch(model, rows, length), build_optimizer(state_config)
    weights_BT = jnp.ones((rows, length))

    def loss(params: Any, state: Any) -> tuple[jax.Array, Any]:
        whole = merge_trained(state, params)
        output = forward(model, whole, batch["tokens"], taps=taps, weights_BT=weights_BT, targets_BT=batch["targets"])
        nll_BT, _ = cross_entropy(output.logits_BTV, batch["targets"])
        return (jnp.sum(nll_BT) + sum(output.losses.values())) / weights_BT.size, (output.taps, output.logits_BTV)

    @jax.jit
    def step(state: Any) -> tuple[Any, jax.Array, Any]:
        (value, seen), grads = jax.value_and_grad(loss, has_aux=True)(state.params, state)
        opt_state = set_learning_rate(state.opt_state, jnp.float32(rate))
        updates, opt_state = optimizer.update(grads, opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return dataclasses.replace(state, params=params, opt_state=opt_state), value, seen

    start = jax.jit(init_state, static_argnums=0)
    for seed in seeds:
        state = start(state_config, seed)
        state, first, before = step(state)
        for _ in range(steps - 1):
            state, _, _ = step(state)
        _, last, after = step(state)  # its update is not used
        yield Measured(
            sizes=_sizes(_by_kind(model, before), _by_kind(model, after)), losses=(float(first), float(last))
        )


def _by_kind(model: ModelConfig, seen: Any) -> Activations:
    taps, logits_BTV = jax.device_get(seen)
    outside = {name: x[None] for name, x in taps.items() if name in ("embedding", "final_norm")}
    return {name: np.asarray(x, np.float64) for name, x in (taps | outside | {LOGITS: logits_BTV[None]}).items()}


def _sizes(before: Activations, after: Activations) -> dict[str, Sizes]:
    change = {kind: after[kind] - before[kind] for kind in before}
    return {
        kind: Sizes(start=_rms(before[kind]), after=_rms(after[kind]), change=_rms(change[kind])) for kind in before
    }


def _rms(x: np.ndarray) -> tuple[float, ...]:
    """The root mean square of each layer."""
    return tuple(float(value) for value in np.sqrt(np.mean(np.square(x.reshape(len(x), -1)), axis=1)))
