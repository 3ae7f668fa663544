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
from train.run import parameter_table as parameters
from train.run.environment import record_session
from train.state import StateConfig, TrainState, init_state


def state_of(experiment: Experiment, params: dict[str, Any], step: int = 0) -> TrainState:
    """The state at a step, with these parameters; plain gradient descent keeps no arrays of their size."""
    seed = experiment.training.seed
    state = init_state(StateConfig.of(experiment), seed, params)
    key = jax.random.key_data(jax.random.key(seed))  # whole: no parameter is drawn from it
    return dataclasses.replace(state, step=jnp.asarray(step, jnp.int32), key=key)


def write_description(experiment: Experiment, into: pathlib.Path) -> None:
    """Writes all of a run folder that comes before its parameters."""
    experiments.save(experiment, into)
    record_session(into)
    write_json(into / "parameters.json", parameters.as_json(experiment))


def write_parameters(experiment: Experiment, params: dict[str, Any], into: pathlib.Path, step: int = 0) -> None:
    """Writes the checkpoint of a step, not compressed if there is one process. Raises UserError when it cannot."""
    state = state_of(experiment, params, step)
    failures: list[str] = []
    compress = jax.process_count() > 1
    with CheckpointStore(into, experiment.checkpoints, failures.append, compress=compress) as store, synced_early(into):
        store.save(experiment, state, step, None)
        store.finish()
        if store.steps() != [step]:
            raise UserError("; ".join(failures) or f"the checkpoint could not be written to {into}")
