"""Opening a finished or unfinished run, to evaluate it or to generate from it."""

import dataclasses
import pathlib
import sys
from typing import Any

import jax

from model.errors import UserError
from train import experiment as experiments
from train.checkpoints.store import CheckpointStore
from train.data.shards.dataset import Dataset, dataset_of_run, is_dataset
from train.data.tokenizers.interface import Tokenizer
from train.experiment import Experiment
from train.optimizers.options import ScheduleFreeAdamW
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import MeshLayout, layout_of
from train.run.folder import ORIGIN
from train.run.paths import as_path
from train.state import Recipe, abstract_state, evaluation_params, state_shardings


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A run's experiment and the parameters of one of its checkpoints, ready to evaluate.

    Attributes:
      folder: the run folder.
      experiment: what it computes.
      params: the parameters to evaluate, on the mesh.
      mesh: the devices here, laid out by the experiment's mesh (or all along `data` where that does not fit here).
      layout: how activations lie on the mesh.
      tokenizer: of the run's dataset.
      step: of the checkpoint.
    """

    folder: pathlib.Path
    experiment: Experiment
    params: Any
    mesh: jax.sharding.Mesh
    layout: MeshLayout
    tokenizer: Tokenizer
    step: int

    def dataset(self) -> Dataset:
        """The dataset that the run was trained on."""
        return dataset_of_run(self.folder)


@dataclasses.dataclass(frozen=True)
class LoadedParams:
    """The parameters of one of a run's checkpoints.

    Attributes:
      experiment: what the run computes.
      params: the parameters to evaluate, on the mesh.
      mesh: the devices here, laid out by the experiment's mesh (or all along `data` where that does not fit here).
      step: of the checkpoint.
    """

    experiment: Experiment
    params: Any
    mesh: jax.sharding.Mesh
    step: int


def load_run(run: str | pathlib.Path, which: str = "latest") -> LoadedRun:
    """Loads a checkpoint of a run: "latest", "best" (lowest validation loss) or a step.

    Raises UserError when there is no such run or checkpoint, when the checkpoint is damaged, and when the dataset has
    another vocabulary than the model. Nothing but the parameters is read, so a damaged optimizer state goes unnoticed.
    """
    run = as_path(run)
    experiment = experiments.load(run)
    if experiment.data.tokenizer is None and (run / ORIGIN).is_dir() and not is_dataset(run / "data"):
        raise UserError(
            f"{run} was read from a folder without tokenizer.json or tokenizer.model, and text needs one; "
            "put it there, delete the run and convert again"
        )
    dataset = dataset_of_run(run)
    if dataset.tokenizer.vocab_size != experiment.model.vocab_size:
        raise UserError(
            f"the tokenizer of {dataset.folder} has {dataset.tokenizer.vocab_size} tokens, but the model of {run} was "
            f"trained with {experiment.model.vocab_size}: another tokenizer made this dataset; prepare the run's own "
            "data there again, or write the folder that holds it into data.json"
        )
    loaded = load_params(run, which)
    return LoadedRun(
        folder=run,
        experiment=experiment,
        params=loaded.params,
        mesh=loaded.mesh,
        layout=layout_of(loaded.mesh, experiment.sharding),
        tokenizer=dataset.tokenizer,
        step=loaded.step,
    )


def load_params(run: pathlib.Path, which: str = "latest") -> LoadedParams:
    """The parameters of a checkpoint alone, for which the run needs no dataset. Raises UserError as `load_run` does."""
    experiment = experiments.load(run)
    mesh = _mesh_here(experiment)
    recipe = Recipe.of(experiment)
    placed, abstract = state_shardings(recipe, mesh, experiment.sharding), abstract_state(recipe)
    if not isinstance(experiment.optimizer, ScheduleFreeAdamW):  # whose parameters to evaluate follow from its state
        placed, abstract = (dataclasses.replace(state, opt_state={}) for state in (placed, abstract))
    with CheckpointStore(run, experiment.checkpoints, say=_warn, read_only=True) as store:
        if which == "latest":
            state = store.restore_latest(experiment, placed, abstract)
            if state is None:
                raise UserError(f"{run} has no checkpoint yet; train it further, or wait for the first save")
        else:
            state = store.restore(_step(store, run, which), experiment, placed, abstract)
    params = evaluation_params(experiment.optimizer, state)
    return LoadedParams(experiment, params, mesh, int(state.step))


def _warn(line: str) -> None:
    print(line, file=sys.stderr)  # standard output is for results


def _step(store: CheckpointStore, run: pathlib.Path, which: str) -> int:
    steps = store.steps()
    listed = f"its checkpoints are {', '.join(map(str, steps))}" if steps else "it has none yet"
    if which == "best":
        best = store.best_step()
        if best is None:
            raise UserError(f"no checkpoint of {run} was evaluated, so none is best; {listed}")
        return best
    named = {str(step): step for step in steps}
    if which not in named:
        raise UserError(f"{run} has no checkpoint {which[:40]!r}; use latest, best, or a step: {listed}")
    return named[which]


def _mesh_here(experiment: Experiment) -> jax.sharding.Mesh:
    try:
        return make_mesh(experiment.mesh)
    except UserError:  # trained on another number of devices: any layout gives the same numbers
        return make_mesh(Mesh())
