"""Writes a run folder around given parameters: config, environment, parameter table and one checkpoint."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from model.errors import UserError
from train import experiment as experiments
from train.checkpoints.files import synced_early
from train.checkpoints.store import CheckpointStore
from train.experiment import Experiment
from train.files.files import write_json
from train.optimizers.guard import new_guard_state
from train.run import parameter_table as parameters
from train.run.environment import record_session
from train.state import StateConfig, TrainState, build_optimizer, partition_params


def state_of(experiment: Experiment, params: dict[str, Any]) -> TrainState:
    """The state before the first step, with these parameters; plain gradient descent keeps no arrays of their size."""
    state_config = StateConfig.of(experiment)
    parts = partition_params(state_config, params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        **parts._asdict(),
        opt_state=build_optimizer(state_config).init(parts.params),
        key=jax.random.key_data(jax.random.key(experiment.training.seed)),
        guard=new_guard_state(experiment.training.guard),
    )


def write_description(experiment: Experiment, into: pathlib.Path) -> None:
    """Writes all of a run folder that comes before its parameters."""
    experiments.save(experiment, into)
    record_session(into)
    write_json(into / "parameters.json", parameters.as_json(experiment))


def write_parameters(experiment: Experiment, params: dict[str, Any], into: pathlib.Path, step: int = 0) -> None:
    """Writes the checkpoint of a step, not compressed if there is one process. Raises UserError when it cannot."""
    state = dataclasses.replace(state_of(experiment, params), step=jnp.asarray(step, jnp.int32))
    failures: list[str] = []
    compress = jax.process_count() > 1
    with CheckpointStore(into, experiment.checkpoints, failures.append, compress=compress) as store, synced_early(into):
        store.save(experiment, state, step, None)
        store.finish()
        if store.steps() != [step]:
            raise UserError("; ".join(failures) or f"the checkpoint could not be written to {into}")
