"""Does one step of a run again, to the bit: the state before it, its loss by document, its gradients by layer.

The steps from the last checkpoint before it run forward, as `train/loop.py` runs them: batch n is a pure function of
(data, seed, n), and the step a pure function of the state and the batch. Their losses are compared with metrics.jsonl
on the way, so a replay on other devices or another version of the code says where it left the recorded run.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from model.errors import UserError
from model.parameters.names import flatten
from model.parameters.specs import specs_by_name
from train import experiment as experiments
from train.checkpoints.faults import DamagedError
from train.checkpoints.store import CheckpointStore
from train.data.interface import TrainingBatches
from train.data.shards.dataset import dataset_of_run
from train.data.tokenizers.interface import Tokenizer
from train.experiment import Experiment
from train.files.paths import AnyPath
from train.hooks.spikes import read_note
from train.lab.by_layer import by_layer
from train.objectives.drawn import refuse_draws
from train.objectives.interface import refuse_preparation
from train.objectives.next_token import token_nll
from train.parallel import feed
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import layout_of, replicated
from train.run.checks import check_mesh
from train.run.loading import local_checkpoints
from train.run.metrics import read_metrics
from train.run.pretrained import initial_state
from train.state import StateConfig, TrainState, abstract_state, state_shardings
from train.statistics import sums_of_squares
from train.step import StepFn, compile_train_step, sums_and_grads

COMPARED = ("loss", "grad_norm")


@dataclasses.dataclass(frozen=True)
class DocumentLoss:
    """The part of a document in one row: its mean loss over counted targets, in nats."""

    row: int
    columns: tuple[int, int]
    name: str
    targets: int
    loss: float
    text: str


@dataclasses.dataclass(frozen=True)
class RowLoss:
    """The targets of a row: their texts, and their losses in nats (0 where a target is not counted)."""

    row: int
    loss: float
    targets: tuple[str, ...]
    losses: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class LayerGradient:
    """The norm of the gradient of a layer, and of the parameter with the largest norm in it."""

    place: str
    norm: float
    parameter: str
    parameter_norm: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay:
    """A step that was done again.

    Attributes:
      step: the number of the update; its batch has the number before.
      restored: the step of the checkpoint from which it ran; 0 for the initial state.
      loss, grad_norm: of the step, as it computed them.
      recorded: the same of the run, where its files have this step; None where they do not.
      compared: the earlier steps, and this one, whose recorded values were compared.
      first_difference: the first of these whose values are not the same to the bit; None if there is none.
      documents: highest loss first.
      rows: the rows with the highest losses.
      layers: highest norm first.
      dropout: whether the step had dropout, which the losses of documents do without.
    """

    run: str
    step: int
    restored: int
    loss: float
    grad_norm: float
    recorded: dict[str, float] | None
    compared: int
    first_difference: int | None
    documents: list[DocumentLoss]
    rows: list[RowLoss]
    layers: list[LayerGradient]
    dropout: bool

    @property
    def is_equal(self) -> bool | None:
        """Whether the step, and all compared before it, are the recorded ones; None where nothing was recorded."""
        return None if not self.compared else self.first_difference is None

    def as_json(self) -> dict[str, Any]:
        """The values, for JSON."""
        return dataclasses.asdict(self) | {"batch": self.step - 1, "equal": self.is_equal}


def replay(
    run: AnyPath,
    step: int,
    *,
    mesh: Mesh | None = None,
    worst_rows: int = 2,
    on_progress: Callable[[int], None] = lambda step: None,
) -> Replay:
    """Does step `step` of a run again; writes nothing.

    Args:
      run: the run folder.
      step: the number of the update, from 1.
      mesh: another mesh than the run's own; then the values are the recorded ones up to rounding.
      worst_rows: the number of rows whose tokens are returned.
      on_progress: called with the number of every step that ran.

    Raises:
      UserError: for a folder that is no run, a step that it does not have, data that is gone, and devices that the mesh
        does not fit.
    """
    experiment = experiments.load(run)
    if mesh is not None:
        experiment = dataclasses.replace(experiment, mesh=mesh)
    if not 1 <= step <= experiment.training.num_steps:
        last = experiment.training.num_steps
        raise UserError(f"--step={step}: this run has the steps 1 to {last} (training.num_steps); give one of them")
    check_mesh(experiment)
    recorded = recorded_values(run, step)
    dataset = dataset_of_run(run)
    batches = experiment.data.training_batches(dataset, _fields(experiment))
    state = _state_before(run, experiment, step)
    if int(state.step) >= step:
        raise UserError(
            f"--step={step}: this run is a branch that begins after step {int(state.step)}; give a later one"
        )
    runner = _Runner(experiment, batches)
    restored, compared, first_difference = int(state.step), 0, None
    for number in range(restored + 1, step + 1):
        batch = runner.batch(number)
        if number == step:
            examined = jax.device_get(runner.examine(state, batch))
        state, metrics = runner.step_function(number)(state, batch)
        if number in recorded or number == step:
            found = {name: float(x) for name, x in jax.device_get({n: metrics[n] for n in COMPARED}).items()}
        if number in recorded:
            compared += 1
            same = all(_same(found[name], value) for name, value in recorded[number].items())
            first_difference = number if not same and first_difference is None else first_difference
        on_progress(number)
    nll_BT, weights_BT = np.asarray(examined["nll"], np.float64), np.asarray(batch_on_host(batch, "weights"))
    return Replay(
        run=str(run),
        step=step,
        restored=restored,
        loss=found["loss"],
        grad_norm=found["grad_norm"],
        recorded=recorded.get(step),
        compared=compared,
        first_difference=first_difference,
        documents=_documents(batches, step - 1, nll_BT, weights_BT),
        rows=_rows(dataset.tokenizer, batch_on_host(batch, "targets"), nll_BT, weights_BT, worst_rows),
        layers=_layers(experiment, examined["gradients"]),
        dropout=any(dataclasses.astuple(experiment.model.dropout)),
    )


def recorded_values(run: AnyPath, last: int) -> dict[int, dict[str, float]]:
    """Loss and gradient norm of the steps up to `last` that the run's files have: metrics.jsonl, and a spike's note."""
    lines = {
        line["step"]: {name: float(line[name]) for name in COMPARED if line.get(name) is not None}
        for line in read_metrics(str(run))
        if line.get("kind") == "train" and line["step"] <= last
    }
    note = read_note(run, last)
    scalars = {} if note is None else note["scalars"]
    noted = {name: float(scalars[name]) for name in COMPARED if name in scalars}
    return lines | ({last: noted} if noted else {})


def batch_on_host(batch: Mapping[str, jax.Array], field: str) -> np.ndarray:
    """A field of a batch as a NumPy array."""
    return np.asarray(jax.device_get(batch[field]))


class _Runner:
    """The compiled functions of a run, and its batches on the devices."""

    def __init__(self, experiment: Experiment, batches: TrainingBatches) -> None:
        refuse_preparation(experiment.objective, "the replay of a step")
        refuse_draws(experiment.objective, "the replay of a step")
        self._experiment, self._batches, self._mesh = experiment, batches, make_mesh(experiment.mesh)
        self._layout = layout_of(self._mesh, experiment.sharding)
        self._rows = self._layout.placement(("batch", "sequence"))
        self._segments = feed.needs_segments(experiment.data, experiment.model)
        self._plain: StepFn = compile_train_step(experiment, self._mesh)
        self.examine = jax.jit(
            functools.partial(_examine, experiment, self._layout), out_shardings=replicated(self._mesh)
        )

    @functools.cached_property
    def _with_statistics(self) -> StepFn:
        return compile_train_step(self._experiment, self._mesh, self._experiment.statistics)

    def step_function(self, step: int) -> StepFn:
        """The function that the loop calls for a step: those with statistics have their own program."""
        statistics, last = self._experiment.statistics, self._experiment.training.num_steps
        return self._plain if statistics is None or not statistics.is_due(step, last) else self._with_statistics

    def batch(self, step: int) -> dict[str, jax.Array]:
        """The batch of a step."""
        rows = self._batches.rows(step - 1)
        return feed.to_devices(rows, self._rows, self._experiment.data.batch_size_at(step - 1), self._segments)


def _fields(experiment: Experiment) -> tuple[str, ...]:
    return feed.batch_fields(experiment.objective.fields, experiment.data, experiment.model)


def _state_before(run: AnyPath, experiment: Experiment, step: int) -> TrainState:
    """The state of the last whole checkpoint before a step, or the initial state."""
    config = StateConfig.of(experiment)
    shardings = state_shardings(config, make_mesh(experiment.mesh), experiment.sharding)
    if (run / "checkpoints").is_dir():
        folder = local_checkpoints(run, "all")
        with CheckpointStore(folder, experiment.checkpoints, say=lambda line: None, read_only=True) as store:
            for number in sorted((number for number in store.steps() if number < step), reverse=True):
                try:
                    return store.restore(number, experiment, shardings, abstract_state(config))
                except DamagedError:
                    continue
    return initial_state(experiment, None, shardings)


def _examine(experiment: Experiment, layout: Any, state: TrainState, batch: Mapping[str, jax.Array]) -> dict[str, Any]:
    """The loss of every token, without dropout, and the sums of squares of the gradients of the step, by layer."""
    _, grads, _ = sums_and_grads(experiment, experiment.objective, layout, state, batch, ())
    weight = experiment.objective.weight(batch)
    sums = sums_of_squares(specs_by_name(StateConfig.of(experiment).specs), {"gradients": grads}, {}, weight)
    return {"nll": token_nll(experiment.model, state.all_params, batch, layout), "gradients": sums["gradients"]}


def _documents(batches: TrainingBatches, number: int, nll_BT: np.ndarray, weights_BT: np.ndarray) -> list[DocumentLoss]:
    found = []
    for span in batches.documents(number):
        columns = slice(span.column, span.column + span.length)
        counted = weights_BT[span.row, columns] > 0
        if counted.any():
            loss = float(nll_BT[span.row, columns][counted].mean())
            ends = (span.column, span.column + span.length)
            found.append(DocumentLoss(span.row, ends, span.name, int(counted.sum()), loss, span.text))
    return sorted(found, key=lambda document: _order(document.loss))


def _rows(
    tokenizer: Tokenizer, targets_BT: np.ndarray, nll_BT: np.ndarray, weights_BT: np.ndarray, count: int
) -> list[RowLoss]:
    counted_BT = weights_BT > 0
    means = [
        float(nll[counted].mean()) if counted.any() else -math.inf
        for nll, counted in zip(nll_BT, counted_BT, strict=True)
    ]
    found = []
    for row in sorted(range(len(means)), key=lambda row: _order(means[row]))[:count]:
        texts = tuple(tokenizer.decode(targets_BT[row, column : column + 1]) for column in range(targets_BT.shape[1]))
        losses = tuple(float(x) for x in np.where(counted_BT[row], nll_BT[row], 0.0))
        found.append(RowLoss(row, means[row], texts, losses))
    return found


def _layers(experiment: Experiment, squares: Mapping[str, np.ndarray]) -> list[LayerGradient]:
    specs, model = specs_by_name(StateConfig.of(experiment).specs), experiment.model
    places: dict[str, dict[str, float]] = {}
    for part in by_layer(model, specs, flatten(squares)):
        places.setdefault(part.place, {})[part.name] = float(part.values)
    found = []
    for place, of_parameters in places.items():
        worst = min(of_parameters, key=lambda name: _order(of_parameters[name]))
        norm = math.sqrt(sum(of_parameters.values()))
        found.append(LayerGradient(place, norm, worst, math.sqrt(of_parameters[worst])))
    return sorted(found, key=lambda layer: _order(layer.norm))


def _order(value: float) -> float:
    """A key that sorts the highest value first, and NaN before all."""
    return -math.inf if math.isnan(value) else -value


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def worst_targets(row: RowLoss, count: int) -> Sequence[int]:
    """The columns of a row with the highest losses, the highest first."""
    return sorted(range(len(row.losses)), key=lambda column: _order(row.losses[column]))[:count]
