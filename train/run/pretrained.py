"""Initial parameters from another run, to train a published model, or one of your own, further."""

import pathlib
import shutil
from typing import Any

from model.config import model_differences
from model.errors import UserError
from model.parameters.names import flatten, unflatten
from model.transformer import abstract_params
from train import experiment as experiments
from train.experiment import Experiment
from train.files.paths import AnyPath, literal_path
from train.files.remote import local_copy
from train.process import hosts
from train.run.folder import ORIGIN
from train.run.loading import load_params


def check_init_from(experiment: Experiment) -> AnyPath:
    """The run that `training.init_from` names. Raises UserError when it is not a run, or has another model."""
    source = literal_path(experiment.training.init_from or "")
    if changed := model_differences(experiments.load(source).model, experiment.model):
        listed = "\n  ".join(changed)
        raise UserError(
            f"training.init_from={source} has another model (its value -> this run's):\n  {listed}\n"
            f"Take it as it is: model=train.experiment.load(pathlib.Path({str(source)!r})).model"
        )
    return source


def initial_params(experiment: Experiment, run: pathlib.Path) -> Any:
    """`read_initial_params` of a run that begins.

    RUN/origin, the record of published weights, is copied too, so that launch.convert can write this run.
    """
    params = read_initial_params(experiment)
    if params is not None and hosts.is_writer():
        source = literal_path(experiment.training.init_from or "")
        if (source / ORIGIN).is_dir():
            shutil.copytree(local_copy(source / ORIGIN), run / ORIGIN, dirs_exist_ok=True)
    return params


def read_initial_params(experiment: Experiment) -> Any:
    """The parameters that `training.init_from` names, in the run's own format and placement; None if it is None.

    They are read straight onto these devices, and converted to the format one by one. Raises UserError when there is no
    such run, or when it has another model.
    """
    if experiment.training.init_from is None:
        return None
    source = check_init_from(experiment)
    arrays = flatten(load_params(source, mesh=experiment.mesh, sharding=experiment.sharding).params)
    shapes = abstract_params(experiment.model)
    for name, like in flatten(shapes).items():
        # Always a copy, which the first step may take over; the array that was read is freed.
        arrays[name] = arrays[name].astype(like.dtype, copy=True)
    return unflatten(shapes, arrays)
