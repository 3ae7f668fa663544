"""The training step and the evaluation step: pure functions, compiled once."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from model.config import ModelConfig
from model.feedforward.loads import move_load_biases, utilisation
from model.layout import Layout
from model.specs import merged
from model.transformer import stream, unembedding
from model.vocabulary.cross_entropy import total_nll
from train import schedules
from train.experiment import Experiment
from train.objectives.next_token import token_nll, with_model_losses
from train.optimizers.guard import judge
from train.optimizers.options import set_learning_rate
from train.optimizers.rounding import lost_updates
from train.parallel.table import layout_of, replicated
from train.state import TrainState, build_optimizer, evaluation_params, state_shardings

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class Sums(NamedTuple):
    """Sums over the tokens of a batch that count, which are those of its parts added up.

    Attributes:
      nll: cross-entropies in nats.
      losses: the model's own losses, by name.
      measured: what it measured, by stack of layers and name.
    """

    nll: jax.Array
    losses: dict[str, jax.Array]
    measured: dict[str, dict[str, jax.Array]]


def batch_loss(
    model: ModelConfig,
    params: Any,
    batch: Batch,
    *,
    z_loss: float,
    dropout_key: jax.Array,
    layout: Layout,
) -> tuple[jax.Array, Sums]:
    """The sum over the batch of what is minimised, and the sums that it is reported by.

    Args:
      model: the model's options.
      params: the parameters, trained or not.
      batch: tokens, targets and loss_mask (B, T); segment_ids and positions where documents do not see each other.
      z_loss: the coefficient of the z-loss.
      dropout_key: of this batch.
      layout: how activations lie on devices.
    """
    output = stream(
        model,
        params,
        batch["tokens"],
        positions_BT=batch.get("positions"),
        segment_ids_BT=batch.get("segment_ids"),
        dropout_key=dropout_key,
        counted_BT=batch["loss_mask"],
        targets_BT=batch["targets"],
        layout=layout,
    )
    head = unembedding(model, params)
    nll, objective = total_nll(output.stream_BTD, head, batch["targets"], batch["loss_mask"], layout, z_loss)
    return with_model_losses(objective, output.losses), Sums(nll, output.losses, output.measured)


def train_step(experiment: Experiment, layout: Layout, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """One update. Returns the next state and its scalars; a step that the guard refuses leaves the parameters alone."""
    training = experiment.training
    sums, grads = _sums_and_grads(experiment, layout, state, batch)
    # A batch in which no target counts has no loss: the guard skips its step.
    loss = jnp.where(jnp.any(batch["loss_mask"] > 0), sums.nll, jnp.nan)
    grad_norm = optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), grads))
    if training.clip_norm is not None:
        scale = jnp.minimum(1.0, training.clip_norm / (grad_norm + 1e-6))
        grads = jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)
    rate = schedules.learning_rate(experiment.schedule, state.step, training.num_steps)
    good, guard = judge(training.guard, state.guard, loss, grad_norm)
    optimizer = build_optimizer(experiment.model, experiment.optimizer)
    opt_state = set_learning_rate(state.opt_state, rate)
    updates, new_opt_state = optimizer.update(grads, opt_state, state.params)
    keep = functools.partial(jnp.where, good)
    params = optax.apply_updates(state.params, updates)
    lost = lost_updates(state.params, updates, params)
    params = jax.tree.map(keep, params, state.params)
    untrained = move_load_biases(experiment.model, state.untrained, sums.measured)
    untrained = jax.tree.map(keep, untrained, state.untrained)
    new_opt_state = jax.tree.map(keep, new_opt_state, opt_state)
    metrics = {
        "loss": loss,
        "grad_norm": grad_norm,
        "learning_rate": rate,
        "skipped": guard.skipped,
        "consecutive": guard.consecutive,
        "tokens": jnp.sum(batch["loss_mask"] > 0, dtype=jnp.int32),
        **lost,
        **sums.losses,
        **utilisation(sums.measured),
    }
    next_state = TrainState(state.step + 1, params, untrained, new_opt_state, state.key, guard)
    return next_state, metrics


def _sums_and_grads(experiment: Experiment, layout: Layout, state: TrainState, batch: Batch) -> tuple[Sums, Any]:
    """Mean losses per counted token, what was measured of all tokens, and the gradient; over micro-batches if asked."""
    training = experiment.training
    weight = jnp.maximum(jnp.sum(batch["loss_mask"]), 1.0)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

    def objective(params: Any, part: Batch, index: jax.Array | int) -> tuple[jax.Array, Sums]:
        dropout_key = jax.random.fold_in(key, index)
        total, sums = batch_loss(
            experiment.model,
            merged(params, state.untrained),
            part,
            z_loss=training.z_loss,
            dropout_key=dropout_key,
            layout=layout,
        )
        losses = {name: loss / weight for name, loss in sums.losses.items()}
        return total / weight, Sums(sums.nll / weight, losses, sums.measured)

    differentiate = jax.value_and_grad(objective, has_aux=True)
    parts = training.gradient_accumulation
    if parts == 1:
        (_, sums), grads = differentiate(state.params, batch, 0)
        return sums, grads

    def accumulate(carry: tuple[jax.Array, Any], inputs: tuple[Batch, jax.Array]) -> tuple[tuple[jax.Array, Any], Any]:
        (_, sums), grads = differentiate(state.params, *inputs)
        return jax.tree.map(jnp.add, carry, (sums.nll, grads)), (sums.losses, sums.measured)

    # Row r goes to micro-batch r % parts, so that no row has to move to another device.
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
    # Sums are float32 whatever the parameters are, or they would not be those of one large batch.
    zeros = jnp.zeros(()), jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), state.params)
    (nll, grads), of_parts = jax.lax.scan(accumulate, zeros, (split, jnp.arange(parts)))
    losses, measured = jax.tree.map(lambda x: jnp.sum(x, axis=0), of_parts)
    return Sums(nll, losses, measured), jax.tree.map(lambda g, p: g.astype(p.dtype), grads, state.params)


def compile_train_step(
    experiment: Experiment, mesh: jax.sharding.Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The jitted step on a mesh: explicit placements in and out, the old state's memory given to the new one."""
    table = experiment.sharding
    placed = state_shardings(experiment.model, experiment.optimizer, experiment.training.guard, mesh, table)
    layout = layout_of(mesh, table)
    rows = layout.placement(("batch", "sequence"))
    return jax.jit(
        functools.partial(train_step, experiment, layout),
        in_shardings=(placed, rows),
        out_shardings=(placed, replicated(mesh)),
        donate_argnums=0,
    )


def compile_eval_step(
    experiment: Experiment, mesh: jax.sharding.Mesh, end: int | None = None
) -> Callable[[TrainState, Batch], Metrics]:
    """The jitted evaluation of one batch: sums of cross-entropies in nats and of counted tokens.

    `end_nll` is the part of `nll` that is of targets `end`, the mark at the ends of documents.
    """
    table = experiment.sharding
    placed = state_shardings(experiment.model, experiment.optimizer, experiment.training.guard, mesh, table)
    layout = layout_of(mesh, table)
    rows = layout.placement(("batch", "sequence"))

    def eval_step(state: TrainState, batch: Batch) -> Metrics:
        params = evaluation_params(experiment.optimizer, state)
        nll_BT = token_nll(experiment.model, params, batch, layout) * batch["loss_mask"]
        end_nll = jnp.zeros(()) if end is None else jnp.sum(nll_BT, where=batch["targets"] == end)
        return {"nll": jnp.sum(nll_BT), "end_nll": end_nll, "tokens": jnp.sum(batch["loss_mask"] > 0, dtype=jnp.int32)}

    return jax.jit(eval_step, in_shardings=(placed, rows), out_shardings=replicated(mesh))
