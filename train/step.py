"""The training step of any objective: a pure function, compiled once."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from model.feedforward.loads import load_statistics, update_load_biases
from model.layout import Layout
from model.parameters.specs import specs_by_name
from model.stages.micro_batches import order_rows
from train import schedules
from train.experiment import Experiment, num_micro_batches
from train.objectives.drawn import with_draws
from train.objectives.interface import Batch, Objective, Sums
from train.optimizers import noise_scale
from train.optimizers.guard import accept_step
from train.optimizers.options import set_learning_rate
from train.optimizers.rounding import lost_updates
from train.parallel.table import layout_of, replicated
from train.state import StateConfig, TrainState, build_optimizer, merge_trained, state_shardings
from train.statistics import Statistics, sums_of_squares

Metrics = dict[str, Any]  # scalars, and the sums of train/statistics.py under "statistics"
StepFn = Callable[[Any, Batch], tuple[Any, Metrics]]  # of a state as the programs of a run take it


def train_step(
    experiment: Experiment, layout: Layout, state: TrainState, batch: Batch, *, statistics: Statistics | None = None
) -> tuple[TrainState, Metrics]:
    """One update. Returns the next state and its scalars; a step that the guard skips leaves the parameters unchanged.

    `statistics` are the statistics to compute in this step.
    """
    training, state_config = experiment.training, StateConfig.of(experiment)
    objective: Objective = experiment.objective
    taps = () if statistics is None else statistics.taps
    with_noise = statistics is not None and statistics.noise_scale
    batch = with_draws(objective, experiment.model, batch, state.key, state.step)
    sums, grads, parts = sums_and_grads(experiment, objective, layout, state, batch, taps, with_noise)
    tokens = objective.tokens(batch)
    # A batch in which no token counts has no loss: the guard skips its step.
    loss = jnp.where(tokens > 0, sums.loss, jnp.nan)
    grad_norm = optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), grads))
    clipped = grads
    if training.clip_norm is not None:
        scale = jnp.minimum(1.0, training.clip_norm / (grad_norm + 1e-6))
        clipped = jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)
    rate = schedules.learning_rate(experiment.schedule, state.step, training.num_steps)
    accepted, guard = accept_step(training.guard, state.guard, loss, grad_norm)
    optimizer = build_optimizer(state_config)
    opt_state = set_learning_rate(state.opt_state, rate)
    updates, new_opt_state = optimizer.update(clipped, opt_state, state.params)
    keep = functools.partial(jnp.where, accepted)
    params = optax.apply_updates(state.params, updates)
    lost = lost_updates(state.params, updates, params)
    params = jax.tree.map(keep, params, state.params)
    untrained = update_load_biases(experiment.model, state.untrained, sums.measurements)
    untrained = jax.tree.map(keep, untrained, state.untrained)
    new_opt_state = jax.tree.map(keep, new_opt_state, opt_state)
    metrics = {
        "loss": loss,
        "grad_norm": grad_norm,
        "learning_rate": rate,
        "skipped": guard.skipped,
        "consecutive": guard.consecutive,
        "tokens": tokens,
        **lost,
        **sums.losses,
        **sums.numbers,
        **load_statistics(sums.measurements),
    }
    if statistics is not None:
        trees = {"parameters": state.params, "gradients": grads, "updates": updates}
        weight = jnp.maximum(objective.weight(batch), 1.0)
        measured = sums_of_squares(specs_by_name(state_config.specs), trees, sums.taps, weight)
        metrics["statistics"] = measured | {"maxima": sums.maxima}
    if parts is not None:
        noise = noise_scale.noise_and_signal(parts, objective.weight(batch), jnp.square(grad_norm))
        metrics["statistics"][noise_scale.ROLE] = noise
    next_state = TrainState(
        step=state.step + 1,
        params=params,
        frozen=state.frozen,
        untrained=untrained,
        opt_state=new_opt_state,
        key=state.key,
        guard=guard,
    )
    return next_state, metrics


def sums_and_grads(
    experiment: Experiment,
    objective: Objective,
    layout: Layout,
    state: TrainState,
    batch: Batch,
    taps: tuple[str, ...],
    with_noise: bool = False,
) -> tuple[Sums, Any, noise_scale.MicroBatch | None]:
    """Mean losses per counted token, the sums of measurements, and the gradient, accumulated over micro-batches.

    `with_noise` adds the squared norms of the gradients of micro-batches.
    """
    parts = num_micro_batches(experiment, next(iter(batch.values())).shape[0])
    weight = jnp.maximum(objective.weight(batch), 1.0)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

    def mean_loss(params: Any, part: Batch, index: jax.Array | int) -> tuple[jax.Array, Sums]:
        """The loss of one micro-batch and its number, or of all that flow through a pipeline and their numbers."""
        fold_in = jax.vmap(jax.random.fold_in, (None, 0)) if jnp.ndim(index) else jax.random.fold_in
        dropout_key = fold_in(key, index)
        whole = merge_trained(state, params)
        total, sums = objective.loss(experiment.model, whole, part, dropout_key=dropout_key, layout=layout, taps=taps)
        losses, numbers = ({name: x / weight for name, x in each.items()} for each in (sums.losses, sums.numbers))
        return total / weight, sums._replace(loss=sums.loss / weight, losses=losses, numbers=numbers)

    differentiate = jax.value_and_grad(mean_loss, has_aux=True)
    if layout.pipeline is not None:
        layout = layout.with_micro_batches(parts)
        (_, sums), grads = differentiate(state.params, _ordered_rows(batch, layout), jnp.arange(parts))
        return sums, grads, None

    def measured(grads: Any, part: Batch) -> noise_scale.MicroBatch | None:
        return noise_scale.MicroBatch(objective.weight(part), noise_scale.squared_norm(grads)) if with_noise else None

    if parts == 1:
        (_, sums), grads = differentiate(state.params, batch, 0)
        if not with_noise:
            return sums, grads, None
        halves = _micro_batches(batch, noise_scale.SPLIT), jnp.arange(noise_scale.SPLIT)
        return sums, grads, jax.lax.map(lambda half: measured(differentiate(state.params, *half)[1], half[0]), halves)

    def accumulate(carry: Any, inputs: tuple[Batch, jax.Array]) -> tuple[Any, Any]:
        (_, sums), grads = differentiate(state.params, *inputs)
        return jax.tree.map(jnp.add, carry, grads), (sums, measured(grads, inputs[0]))

    # Sums are float32 for any parameter format, so that they equal those of one large batch.
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), state.params)
    grads, (of_parts, squares) = jax.lax.scan(accumulate, zeros, (_micro_batches(batch, parts), jnp.arange(parts)))
    sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), of_parts)
    sums = sums._replace(maxima=jax.tree.map(lambda x: jnp.max(x, axis=0), of_parts.maxima))
    return sums, jax.tree.map(lambda g, p: g.astype(p.dtype), grads, state.params), squares


def _micro_batches(batch: Batch, parts: int) -> Batch:
    """Arrays (parts, rows, T). Row r goes to micro-batch r % parts, so that no row has to move to another device."""
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)


def _ordered_rows(batch: Batch, layout: Layout) -> Batch:
    """The batch with its rows in the order of a pipeline; row r is in micro-batch r % parts, as without one."""
    pipeline = layout.pipeline
    assert pipeline is not None
    return {
        name: layout.constrain(order_rows(x, pipeline), ("batch", "sequence", *(None,) * (x.ndim - 2)))
        for name, x in batch.items()
    }


def compile_train_step(
    experiment: Experiment, mesh: jax.sharding.Mesh, statistics: Statistics | None = None
) -> jax.stages.Wrapped:
    """The jitted step on a mesh, with explicit input and output placements; the new state reuses the old one's memory.

    `statistics` are the statistics that the step computes.
    """
    table = experiment.sharding
    shardings = state_shardings(StateConfig.of(experiment), mesh, table)
    layout = layout_of(mesh, table)
    rows = layout.placement(("batch", "sequence"))
    step: Callable[..., Any] = functools.partial(train_step, experiment, layout, statistics=statistics)
    if table.moments == "host":
        step = _with_moments_on_host(step, shardings.opt_state)
    return jax.jit(
        step,
        in_shardings=(shardings, rows),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def _with_moments_on_host(step: Callable[..., Any], moments: Any) -> Callable[..., Any]:
    """The same step of a state whose moments are in the memory of the host, at these placements, before and after."""
    on_devices = jax.tree.map(lambda where: where.with_memory_kind("device"), moments)

    def moved_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        brought = dataclasses.replace(state, opt_state=jax.device_put(state.opt_state, on_devices))
        state, metrics = step(brought, batch)
        return dataclasses.replace(state, opt_state=jax.device_put(state.opt_state, moments)), metrics

    return moved_step
