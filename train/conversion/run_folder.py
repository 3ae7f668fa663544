"""Writes a run folder around given parameters: config, environment, parameter table and one checkpoint."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.errors import UserError
from model.options.tree import check
from train import experiment as experiments
from train.checkpoints.files import synced_early
from train.checkpoints.store import CheckpointStore
from train.conversion.folder import new_folder
from train.data.shards.dataset import is_dataset
from train.experiment import Experiment
from train.files.files import write_json
from train.files.paths import AnyPath, absolute
from train.files.remote import local_copy
from train.optimizers.options import SGD
from train.run import parameter_table as parameters
from train.run.environment import record_session
from train.run.folder import copy_origin_of
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


def derived_experiment(before: Experiment, model: ModelConfig) -> Experiment:
    """The experiment of a run with other parameters than those of `before`, and no moments of any."""
    experiment = dataclasses.replace(before, model=model)
    plain = dataclasses.replace(experiment, optimizer=SGD(momentum=0.0))
    return experiment if any(True for _ in plain.optimizer.clashes(model.parametrization)) else plain


def write_derived(
    experiment: Experiment,
    run: AnyPath,
    target: pathlib.Path,
    params: Callable[[], tuple[Any, int]],
    more: Callable[[pathlib.Path], None] = lambda part: None,
) -> None:
    """Writes a run folder with parameters that are made from those of another run.

    Args:
      experiment: the experiment of the new run.
      run: the other run.
      target: the new run folder, which must not exist.
      params: returns the parameters and their step.
      more: writes further files into the folder.
    """
    check(experiment)
    with new_folder(target) as part:
        write_description(experiment, part)
        tree, step = params()
        copy_origin_of(run, part, adapter=experiment.model.adapters is not None)
        more(part)
        if (run / "data.json").is_file():
            shutil.copy(local_copy(run / "data.json"), part / "data.json")
        elif is_dataset(run / "data"):
            write_json(part / "data.json", {"dataset": str(absolute(run / "data"))})
        write_parameters(experiment, tree, part, step)
