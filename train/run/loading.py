"""Loads a finished or unfinished run, for evaluation or generation."""

import dataclasses
import pathlib
from typing import Any

import jax

from model.errors import UserError
from train import experiment as experiments
from train.checkpoints.store import CheckpointStore
from train.checkpoints.uploads import complete_steps
from train.data.config import Data
from train.data.shards.dataset import Dataset, dataset_of_run, is_dataset
from train.data.tokenizers.interface import Tokenizer
from train.experiment import Experiment
from train.files.paths import AnyPath, user_path
from train.files.remote import convert_read_errors, local_copy, print_to_stderr
from train.objectives.fit import tokenizer_size
from train.optimizers.options import ScheduleFreeAdamW
from train.parallel.mesh import Mesh
from train.parallel.mesh_choice import MeshChoice, model_shardings, requested_mesh, run_mesh_or_fsdp
from train.parallel.table import MeshLayout, Sharding
from train.run.conversion_record import accepted_notes, read_record
from train.run.environment import read_sessions
from train.run.folder import ORIGIN
from train.state import StateConfig, abstract_state, evaluation_params, state_shardings


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A run's experiment and the parameters of one of its checkpoints, ready to evaluate.

    Attributes:
      folder: the run folder, on this machine or in a store.
      experiment: the run's options.
      params: the parameters to evaluate, on the mesh.
      mesh: the devices here, arranged as train/parallel/mesh_choice.py says.
      layout: the sharding of activations.
      tokenizer: the tokenizer of the run's dataset.
      step: the step of the checkpoint.
    """

    folder: AnyPath
    experiment: Experiment
    params: Any
    mesh: jax.sharding.Mesh
    layout: MeshLayout
    tokenizer: Tokenizer
    step: int

    def dataset(self) -> Dataset:
        """The dataset that the run was trained on."""
        return dataset_of_run(self.folder)

    def on(self, mesh: Mesh) -> "LoadedRun":
        """The same run on another mesh of the devices here. Raises UserError when it does not fit them."""
        choice = requested_mesh(self.experiment.model, mesh, self.experiment.sharding)
        if choice.note is not None:
            print_to_stderr(choice.note)
        params = jax.device_put(self.params, model_shardings(self.experiment.model, choice.mesh, choice.table))
        return dataclasses.replace(self, params=params, mesh=choice.mesh, layout=choice.layout)


@dataclasses.dataclass(frozen=True)
class LoadedParams:
    """The parameters of a checkpoint.

    Attributes:
      experiment: the run's options.
      params: the parameters to evaluate, on the mesh.
      mesh: the devices here, arranged as train/parallel/mesh_choice.py says.
      layout: the sharding of activations.
      table: the sharding table.
      step: the step of the checkpoint.
    """

    experiment: Experiment
    params: Any
    mesh: jax.sharding.Mesh
    layout: MeshLayout
    table: Sharding
    step: int


def load_run(run: str | AnyPath, checkpoint: str = "latest", *, mesh: Mesh | None = None) -> LoadedRun:
    """Loads a checkpoint of a run: "latest", "best" (lowest validation loss) or a step.

    Its parameters are read straight onto their devices: no device holds more of them than its share. The mesh is the
    given mesh, or the run's own if it fits the devices here, or FSDP over all of them; a line on standard error reports
    the last case.

    Raises UserError when there is no such run or checkpoint, when the checkpoint is damaged, when the dataset has
    another vocabulary than the model, and when the mesh does not fit the devices or the model. Only the parameters are
    read, so a damaged optimizer state is not noticed.
    """
    run = user_path(run)
    with convert_read_errors(run):
        return _load_run(run, checkpoint, mesh)


def _load_run(run: AnyPath, checkpoint: str, mesh: Mesh | None) -> LoadedRun:
    experiment = experiments.load(run)
    no_tokenizer = isinstance(experiment.data, Data) and experiment.data.tokenizer is None
    if no_tokenizer and (run / ORIGIN).is_dir() and not is_dataset(run / "data"):
        raise UserError(
            f"{run} was read from a folder without tokenizer.json or tokenizer.model, and text needs one; "
            "put it there, delete the run and convert again"
        )
    for note in accepted_notes(read_record(run / ORIGIN)):
        print_to_stderr(f"{run}: {note}")
    dataset = dataset_of_run(run)
    if dataset.tokenizer.vocab_size != tokenizer_size(experiment.objective, experiment.model, experiment.data):
        raise UserError(
            f"the tokenizer of {dataset.folder} has {dataset.tokenizer.vocab_size} tokens, but the model of {run} was "
            f"trained with {experiment.model.vocab_size}: another tokenizer made this dataset; prepare the run's own "
            "data there again, or write the folder that holds it into data.json"
        )
    loaded = load_params(run, checkpoint, mesh=mesh)
    return LoadedRun(
        folder=run,
        experiment=experiment,
        params=loaded.params,
        mesh=loaded.mesh,
        layout=loaded.layout,
        tokenizer=dataset.tokenizer,
        step=loaded.step,
    )


def load_params(
    run: AnyPath, checkpoint: str = "latest", *, mesh: Mesh | None = None, sharding: Sharding | None = None
) -> LoadedParams:
    """Loads only the parameters of a checkpoint; needs no dataset.

    Args:
      run: the run folder, on this machine or in a store.
      checkpoint: latest, best, or a step.
      mesh: as for `load_run`.
      sharding: the sharding table for a given mesh; None for the run's own.

    Raises UserError as `load_run` does.
    """
    experiment = experiments.load(run)
    choice = _choose_mesh(run, experiment, mesh, sharding)
    state_config = StateConfig.of(experiment)
    shardings, abstract = state_shardings(state_config, choice.mesh, choice.table), abstract_state(state_config)
    if not isinstance(experiment.optimizer, ScheduleFreeAdamW):  # it computes the parameters to evaluate from its state
        shardings, abstract = (dataclasses.replace(state, opt_state={}) for state in (shardings, abstract))
    with (
        convert_read_errors(run),
        CheckpointStore(
            local_checkpoints(run, checkpoint), experiment.checkpoints, say=print_to_stderr, read_only=True
        ) as store,
    ):
        if checkpoint == "latest":
            state = store.restore_latest(experiment, shardings, abstract)
            if state is None:
                raise UserError(f"{run} has no checkpoint yet; train it further, or wait for the first save")
        else:
            state = store.restore(_parse_step(store, run, checkpoint), experiment, shardings, abstract)
    params = evaluation_params(experiment.optimizer, state)
    return LoadedParams(experiment, params, choice.mesh, choice.layout, choice.table, int(state.step))


def latest_step(run: pathlib.Path) -> int | None:
    """The step of the newest checkpoint of a run, None if it has none; reads no array.

    `load_run` loads that step, or an earlier one if that checkpoint is damaged. Raises UserError when there is no such
    run, and when its checkpoints cannot be listed.
    """
    options = experiments.load(run).checkpoints
    with CheckpointStore(run, options, say=lambda line: None, read_only=True) as store:
        return max(store.steps(), default=None)


def _choose_mesh(run: AnyPath, experiment: Experiment, mesh: Mesh | None, sharding: Sharding | None) -> MeshChoice:
    """The devices, arranged for a run's model; prints a line if this is not the run's own mesh."""
    table = sharding or experiment.sharding
    if mesh is not None:
        choice = requested_mesh(experiment.model, mesh, table)
    else:
        sessions = read_sessions(run)
        devices = sessions[-1].get("devices") if sessions else None
        count = devices.get("count") if isinstance(devices, dict) else None
        choice = run_mesh_or_fsdp(experiment.model, experiment.mesh, table, count if isinstance(count, int) else None)
    if choice.note is not None:
        print_to_stderr(choice.note)
    return choice


def local_checkpoints(run: AnyPath, checkpoint: str) -> AnyPath:
    """A run folder whose checkpoints orbax can read: the run's own, or a copy of the files that may be needed.

    Orbax reads gs:// in place, each device its shards; it cannot read arrays from other stores. Only complete
    checkpoints are copied.
    """
    if isinstance(run, pathlib.Path) or str(run).startswith("gs://"):
        return run
    with convert_read_errors(run):
        folder = run / "checkpoints"
        uploaded = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
        steps = {str(step) for step in complete_steps(folder, uploaded, print_to_stderr)}
    needed = {"latest": {max(steps, key=int, default="")}, "best": steps}.get(checkpoint, {checkpoint})
    if not needed & steps:
        needed = steps  # to list them in the error
    return local_copy(run, lambda name: name.split("/")[0] == "checkpoints" and name.split("/")[1] in needed)


def _parse_step(store: CheckpointStore, run: AnyPath, checkpoint: str) -> int:
    steps = store.steps()
    listed = f"its checkpoints are {', '.join(map(str, steps))}" if steps else "it has none yet"
    if checkpoint == "best":
        best = store.best_step()
        if best is None:
            raise UserError(f"no checkpoint of {run} was evaluated, so none is best; {listed}")
        return best
    by_name = {str(step): step for step in steps}
    if checkpoint not in by_name:
        raise UserError(f"{run} has no checkpoint {checkpoint[:40]!r}; use latest, best, or a step: {listed}")
    return by_name[checkpoint]
