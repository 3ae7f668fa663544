"""The state before a run's first step: drawn, with the parameters of another run, or a whole state of another run."""

import pathlib
from typing import Any

import jax

from model.config import model_differences
from model.errors import UserError
from model.parameters.names import flatten, unflatten
from model.transformer import abstract_params
from train import experiment as experiments
from train.checkpoints.store import CheckpointStore
from train.experiment import Branch, Experiment
from train.files.paths import AnyPath, literal_path
from train.files.remote import convert_read_errors
from train.parallel.mesh import make_mesh
from train.parallel.mesh_choice import model_shardings
from train.process import hosts
from train.run.added_parts import add_parts, added_parts, without_parts
from train.run.checks import refuse_quantized
from train.run.folder import copy_origin_of
from train.run.loading import load_params, local_checkpoints
from train.state import StateConfig, TrainState, abstract_state, init_sharded, keys_of


def check_start(experiment: Experiment) -> None:
    """Raises UserError when the run that `init_from` or `branch_from` names cannot be the start of this one."""
    if experiment.training.init_from is not None:
        check_init_from(experiment)
    if experiment.training.branch_from is not None:
        _check_branch(experiment, experiment.training.branch_from)


def initial_state(experiment: Experiment, run: pathlib.Path | None, shardings: TrainState) -> TrainState:
    """The state before the first step, in the placement of the run. Raises UserError as `check_start` does.

    The record of published weights that `init_from` has is copied into `run`; with None nothing is written.
    """
    branch = experiment.training.branch_from
    if branch is not None:
        return _state_of_trunk(experiment, branch, shardings)
    params = initial_params(experiment)
    if params is not None and run is not None and hosts.is_writer():
        copy_origin_of(literal_path(experiment.training.init_from or ""), run)
    return init_sharded(StateConfig.of(experiment), experiment.training.seed, shardings, params)


def _check_branch(experiment: Experiment, branch: Branch) -> AnyPath:
    """The folder of the trunk. Raises UserError when it is no run, or its states have other arrays."""
    source = literal_path(branch.run)
    trunk = experiments.load(source)
    refuse_quantized(trunk.model, f"training.branch_from.run={source}", experiment.model)
    changed = model_differences(trunk.model, experiment.model)
    own, other = (abstract_state(StateConfig.of(one)) for one in (experiment, trunk))
    kinds = [type(one.optimizer).__name__ for one in (trunk, experiment)]
    if kinds[0] != kinds[1]:
        changed.append(f"optimizer: {kinds[0]} -> {kinds[1]}")
    elif not changed and (jax.tree.structure(own), jax.tree.leaves(own)) != (
        jax.tree.structure(other),
        jax.tree.leaves(other),
    ):
        changed.append("an option of the optimizer, the guard, the frozen parameters or the number formats")
    if changed:
        listed = "\n  ".join(changed)
        raise UserError(
            f"training.branch_from.run={source} has other states (its value -> this run's):\n  {listed}\n"
            "A branch has the trunk's model and optimizer; training.init_from takes the parameters alone"
        )
    return source


def _state_of_trunk(experiment: Experiment, branch: Branch, shardings: TrainState) -> TrainState:
    source = _check_branch(experiment, branch)
    trunk = experiments.load(source)
    folder = local_checkpoints(source, str(branch.step))
    with (
        convert_read_errors(source),
        CheckpointStore(folder, trunk.checkpoints, say=lambda line: None, read_only=True) as store,
    ):
        if branch.step not in (steps := store.steps()):
            listed = f"its checkpoints are {', '.join(map(str, steps))}" if steps else "it has none yet"
            raise UserError(
                f"training.branch_from: {source} has no checkpoint {branch.step}; {listed}. "
                "checkpoints.keep_every keeps those at multiples of a number"
            )
        return store.restore(branch.step, trunk, shardings, abstract_state(StateConfig.of(experiment)))


def check_init_from(experiment: Experiment) -> AnyPath:
    """The run that `training.init_from` names. Raises UserError when it is not a run, or has another model.

    Its model may lack parts of this run's, whose fields are marked as such (train/run/added_parts.py).
    """
    source = literal_path(experiment.training.init_from or "")
    model = experiments.load(source).model
    refuse_quantized(model, f"training.init_from={source}", experiment.model)
    if changed := model_differences(model, experiment.model, *added_parts(model, experiment.model)):
        listed = "\n  ".join(changed)
        raise UserError(
            f"training.init_from={source} has another model (its value -> this run's):\n  {listed}\n"
            f"Take it as it is: model=train.experiment.load(pathlib.Path({str(source)!r})).model"
        )
    return source


def initial_params(experiment: Experiment) -> Any:
    """The parameters that `training.init_from` names, in the run's own format and placement; None if it is None.

    They are read straight onto these devices, and converted to the format one by one. Those of parts that the other
    model lacks are drawn from the seed. Raises UserError when there is no such run, or when it has another model.
    """
    if experiment.training.init_from is None:
        return None
    source, config = check_init_from(experiment), experiment.model
    loaded = load_params(source, mesh=experiment.mesh, sharding=experiment.sharding)
    arrays, added = flatten(loaded.params), added_parts(loaded.experiment.model, config)
    del loaded
    shapes = abstract_params(without_parts(config, added))
    for name, like in flatten(shapes).items():
        # Always a copy, which the first step may take over; the array that was read is freed.
        arrays[name] = arrays[name].astype(like.dtype, copy=True)
    params = unflatten(shapes, arrays)
    if not added:
        return params
    places = model_shardings(config, make_mesh(experiment.mesh), experiment.sharding)
    complete = jax.jit(add_parts, static_argnums=0, out_shardings=places, donate_argnums=1)
    return complete(config, params, keys_of(experiment.training.seed)[0])
