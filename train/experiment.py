"""One experiment: model, data, optimizer, mesh and run, as one tree of options; saved in a run folder, and loaded."""

import dataclasses
import pathlib
import typing
from collections.abc import Iterator

from model.attention.heads import divisors
from model.config import ModelConfig
from model.errors import UserError
from model.options.difference import differences
from model.options.field_marks import EXECUTION_ONLY, exclude_paths, marked_fields
from model.options.json import from_json, to_json
from model.options.tree import check, find_problems
from model.stages.pipeline import problems_of_stages
from model.transformer import specs
from train.data.config import Data
from train.data.conversations.option import Conversations
from train.data.generated import Generated
from train.data.pairs.option import Pairs
from train.data.preferences.option import Preferences
from train.data.prompts import Prompts
from train.data.span_corruption.option import SpanCorruption
from train.earlier import current_config
from train.evaluation.named_evaluations import AnyEvaluation, changed_texts, problems_of_evaluations
from train.files.files import read_json, write_json
from train.files.paths import IS_PATH, AnyPath, expand_paths
from train.files.remote import convert_read_errors
from train.objectives.fit import AnyObjective, problems_of_direction, problems_of_objective, tokenizer_size
from train.objectives.next_token import NextToken
from train.optimizers.frozen import Frozen, mark_frozen
from train.optimizers.guard import Guard
from train.optimizers.noise_scale import SPLIT
from train.optimizers.options import SGD, Adafactor, AdamW, Lion, Muon, ScheduleFreeAdamW
from train.optimizers.spikes import Spikes
from train.parallel.mesh import Mesh
from train.parallel.table import Sharding, num_stages, unused_axes
from train.schedules import Constant, Cosine, InverseSquareRoot, Linear, WarmupStableDecay
from train.statistics import Statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Branch:
    """A step of another run, the trunk, from which a run goes on: with its parameters, moments and step number.

    The schedule is that of the new run at that step, and its batches are those after that step. Cool-downs of different
    lengths from one trunk are the use: Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations".

    Attributes:
      run: the folder of the trunk; its model, and the kind of its optimizer, are those of the new run.
      step: the step, of which the trunk has a checkpoint (checkpoints.keep_every keeps them).
    """

    run: str = dataclasses.field(metadata=IS_PATH)
    step: int

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.step < 1:
            yield "step", f"must be at least 1, got {self.step}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The optimisation of one run.

    Attributes:
      num_steps: the total number of updates.
      seed: the seed of the parameters and of dropout (the order of the data has its own, data.seed).
      gradient_accumulation: micro-batches per update; the result equals one large batch.
      clip_norm: the largest global norm of the gradient of the trained parameters, or None.
      guard: which steps to skip.
      frozen: the parameters that keep their initial values.
      init_from: a run folder, for example from launch.convert: its latest parameters are the initial ones. Its model
        may lack parts that this one has, such as adapters: these are drawn. None draws all at random.
      branch_from: the step of another run whose whole state is the initial one; None for a run that begins at step 0.
    """

    num_steps: int
    seed: int = 0
    gradient_accumulation: int = 1
    clip_norm: float | None = 1.0
    guard: Guard = Guard()
    frozen: Frozen = Frozen()
    init_from: str | None = dataclasses.field(default=None, metadata=IS_PATH)
    branch_from: Branch | None = None

    @property
    def starts_from(self) -> str | None:
        """The run whose parameters are the initial ones; None where they are drawn."""
        return self.init_from if self.branch_from is None else self.branch_from.run

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for name in ("num_steps", "gradient_accumulation"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, got {getattr(self, name)}"
        if not 0 <= self.seed < 2**32:
            yield "seed", f"must be from 0 to 2^32 - 1, got {self.seed}"
        if self.branch_from is not None and self.init_from is not None:
            yield "branch_from", f"takes the parameters of {self.branch_from.run} and init_from others; set one None"
        if self.branch_from is not None and self.branch_from.step >= self.num_steps:
            yield "num_steps", f"{self.num_steps} steps end before branch_from.step={self.branch_from.step} is left"
        if self.clip_norm is not None and self.clip_norm <= 0:
            yield "clip_norm", f"must be above 0, or None for no clipping, got {self.clip_norm}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The validation loss during the run.

    Attributes:
      every: steps between evaluations; the last step is always evaluated.
      max_batches: batches of the validation split to use; None for all of it.
    """

    every: int = 500
    max_batches: int | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for name in ("every", "max_batches"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield name, f"must be at least 1, got {value}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """Text drawn from the model during the run, at every evaluation.

    Attributes:
      prompts: the prompts; each gives one sample.
      length: new tokens in each sample.
      temperature, top_p: how tokens are drawn.
    """

    prompts: tuple[str, ...] = ()
    length: int = 128
    temperature: float = 0.8
    top_p: float = 0.95

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.length < 1:
            yield "length", f"must be at least 1, got {self.length}"
        if self.temperature < 0:
            yield "temperature", f"must be 0 (greedy) or more, got {self.temperature}"
        if not 0 < self.top_p <= 1:
            yield "top_p", f"must be above 0 and at most 1, got {self.top_p}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When the state is saved, and which checkpoints are kept.

    Attributes:
      every: steps between saves; the last step is always saved.
      keep_last: the number of latest checkpoints to keep.
      keep_every: checkpoints at multiples of this many steps are always kept; None for no such checkpoints.
      keep_best: the number of checkpoints with the lowest validation loss to keep.
    """

    every: int = 500
    keep_last: int = 2
    keep_every: int | None = None
    keep_best: int = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for name in ("every", "keep_last", "keep_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield name, f"must be at least 1, got {value}"
        if self.keep_best < 0:
            yield "keep_best", f"must be 0 or more, got {self.keep_best}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logging:
    """The logs of a run.

    Attributes:
      every: steps between lines of metrics.jsonl.
      tensorboard: whether TensorBoard events are written too.
      wandb_project: the Weights & Biases project to log to (the extra `wandb`), or None.
    """

    every: int = 10
    tensorboard: bool = True
    wandb_project: str | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.every < 1:
            yield "every", f"must be at least 1, got {self.every}"
        if self.wandb_project == "":
            yield "wandb_project", "is empty; expected the name of a project, or None for none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides what a run computes."""

    model: ModelConfig
    data: Data | Generated | Conversations | Preferences | Pairs | SpanCorruption | Prompts
    training: Training
    objective: AnyObjective = NextToken()
    optimizer: AdamW | Adafactor | Lion | Muon | SGD | ScheduleFreeAdamW
    schedule: Constant | Cosine | Linear | InverseSquareRoot | WarmupStableDecay
    mesh: Mesh = dataclasses.field(default=Mesh(), metadata=EXECUTION_ONLY)
    sharding: Sharding = dataclasses.field(default=Sharding(), metadata=EXECUTION_ONLY)
    evaluation: Evaluation = Evaluation()
    evaluations: tuple[AnyEvaluation, ...] = dataclasses.field(default=(), metadata=EXECUTION_ONLY)
    statistics: Statistics | None = dataclasses.field(default=None, metadata=EXECUTION_ONLY)
    spikes: Spikes | None = dataclasses.field(default=Spikes(), metadata=EXECUTION_ONLY)
    samples: Samples = dataclasses.field(default=Samples(), metadata=EXECUTION_ONLY)
    checkpoints: Checkpoints = dataclasses.field(default=Checkpoints(), metadata=EXECUTION_ONLY)
    logging: Logging = dataclasses.field(default=Logging(), metadata=EXECUTION_ONLY)

    @property
    def text(self) -> Data:
        """The data of an experiment on text. Raises UserError when a task makes its data."""
        if not isinstance(self.data, Data):
            raise UserError(f"data: {self.data.no_text}; there is no text to name")
        return self.data

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the values that clash from one part to another."""
        if (length := self.data.sequence_length) > (context := self.model.context_length):
            mend = f"give data.sequence_length={context} or less"
            if isinstance(self.data, SpanCorruption):
                mend = f"give model.context_length={length} or more, or a smaller data.source_length"
            yield "data.sequence_length", f"{length} is longer than model.context_length={context}; {mend}"
        draws = self.model.visibility.decodes and bool(self.samples.prompts)
        if draws and self.samples.length >= context:
            yield "samples.length", f"{self.samples.length} leaves a prompt no room in model.context_length={context}"
        parts = self.training.gradient_accumulation
        if parts >= 1 and self.data.batch_size % parts:
            yield "data.batch_size", f"{self.data.batch_size} does not split into gradient_accumulation={parts} parts"
        yield from self.data.problems_with_vocabulary(tokenizer_size(self.objective, self.model, self.data))
        found = problems_of_evaluations(self.evaluations, self.data, self.model.context_length)
        yield from ((f"evaluations.{path}", message) for path, message in found)
        yield from problems_of_objective(self.objective, self.model, self.data, parts)
        yield from problems_of_direction(self.objective, self.model, self.samples.prompts, self.evaluations)
        yield from self._problems_of_schedule()
        yield from self._problems_of_parameters()
        yield from self._problems_of_stages()
        yield from self._problems_of_moments()
        yield from self._problems_of_noise_scale()
        if self.statistics is not None and not find_problems(self.model):
            found = self.statistics.problems_with(self.model)
            yield from ((f"statistics.{field}", message) for field, message in found)
        for field, message in self.optimizer.clashes(self.model.parametrization):
            yield (f"optimizer.{field}" if field else "optimizer"), message

    def _problems_of_noise_scale(self) -> Iterator[tuple[str, str]]:
        if self.statistics is None or not self.statistics.noise_scale:
            return
        if num_stages(self.mesh, self.sharding) > 1:
            yield "statistics.noise_scale", "a pipeline adds up the gradients of its micro-batches; set it False"
        elif min(self.data.batch_size, self.training.gradient_accumulation) < 1 or find_problems(self.data):
            return
        elif odd := [n for n in self.data.batch_sizes() if n % SPLIT and num_micro_batches(self, n) == 1]:
            where = "data.batch_size" if self.data.ramp is None else "data.ramp.start"
            yield "statistics.noise_scale", f"halves the batch, and {where}={odd[0]} is odd; make it even"

    def _problems_of_moments(self) -> Iterator[tuple[str, str]]:
        if self.sharding.moments == "host" and isinstance(self.optimizer, ScheduleFreeAdamW):
            yield "sharding.moments", "'host' keeps from the devices the average that ScheduleFreeAdamW evaluates"

    def _problems_of_schedule(self) -> Iterator[tuple[str, str]]:
        steps, schedule = self.training.num_steps, self.schedule
        phases = {"warmup_steps": schedule.warmup_steps}
        if isinstance(schedule, WarmupStableDecay):
            phases["decay_steps"] = schedule.decay_steps
        if sum(phases.values()) > steps >= 1:
            named = " + ".join(f"schedule.{name}={count}" for name, count in phases.items())
            yield (
                "training.num_steps",
                f"{steps} steps are too few for {named}; shorten these as well, or give --hard_stop={steps} instead, "
                "which ends a run early and leaves its schedule as it is",
            )

    def _problems_of_parameters(self) -> Iterator[tuple[str, str]]:
        """Yields the problems of `frozen` and weight decay that name parameters which the model does not have."""
        frozen, optimizer, adapters = self.training.frozen, self.optimizer, self.model.adapters
        named = frozen.roles or frozen.parts or optimizer.decay_also or optimizer.decay_never or adapters
        if not named or find_problems(self.model):
            return
        known = specs(self.model)
        yield from ((f"training.frozen.{field}", message) for field, message in frozen.problems_with(known))
        if adapters is not None:
            yield from ((f"model.adapters.{field}", message) for field, message in adapters.problems_with(known))
        known = mark_frozen(known, frozen)
        yield from ((f"optimizer.{field}", message) for field, message in optimizer.problems_with(known))

    def _problems_of_stages(self) -> Iterator[tuple[str, str]]:
        """Yields what cannot run in the stages of a pipeline, or has no effect without them."""
        for axis in unused_axes(self.mesh, self.sharding):
            yield (
                f"mesh.{axis}",
                f"the sharding table of this config, of an earlier version maybe, splits nothing over {axis}, so that "
                f"{getattr(self.mesh, axis)} devices would compute the same; take the table of today with "
                "--set 'sharding=Sharding()', or leave the axis out",
            )
        stages, chunks = num_stages(self.mesh, self.sharding), self.sharding.chunks
        if stages == 1:
            if chunks > 1:
                yield "sharding.chunks", f"{chunks} are of the stages of a pipeline, and mesh.stage is 1; set it to 1"
            return
        if chunks >= 1 and not find_problems(self.model):
            yield from problems_of_stages(self.model, stages, chunks)
        if self.model.precision.parameters != "float32":
            yield (
                "model.precision.parameters",
                "the gradients of micro-batches add up in this format in a pipeline; set float32, or mesh.stage=1",
            )
        parts, batch = self.training.gradient_accumulation, self.data.batch_size
        if parts % stages:
            fits = [str(number) for number in divisors(max(batch, 1)) if number % stages == 0]
            use = f"use {', '.join(fits)}" if fits else f"use a multiple, and one for data.batch_size={batch} too"
            yield (
                "training.gradient_accumulation",
                f"{parts} micro-batches cannot be split over the {stages} stages that they flow through; {use}",
            )
        if self.data.texts_of_row > 1:
            yield "mesh.stage", "the two texts of a row do not run in stages; set it to 1"
        if self.data.ramp is not None:
            yield "data.ramp", "a pipeline has the same micro-batches in all steps; set it to None, or mesh.stage to 1"
        if self.samples.prompts:
            yield "samples.prompts", "decoding does not run in stages; set it to (), or mesh.stage to 1"


def num_micro_batches(experiment: Experiment, rows: int) -> int:
    """The number of micro-batches of a batch of so many rows; a batch that a ramp has not yet grown has fewer.

    They are the fewest of equal size that are no larger than those of a whole batch.
    """
    parts = experiment.training.gradient_accumulation
    if rows >= experiment.data.batch_size:
        return parts
    return next(n for n in divisors(rows) if rows * parts <= n * experiment.data.batch_size)


def save(experiment: Experiment, run: pathlib.Path) -> None:
    """Writes the resolved config into a run folder."""
    write_json(run / "config.json", to_json(experiment))


def load(run: AnyPath) -> Experiment:
    """The experiment of a run folder. Raises UserError when there is none, or when it no longer fits the code."""
    path = run / "config.json"
    with convert_read_errors(run):
        if not path.is_file():
            raise UserError(f"{run} is no run folder: it has no config.json; give the folder that launch.train wrote")
        stored = _read_config(run)
    try:
        experiment: Experiment = expand_paths(from_json(Experiment, current_config(stored)))
        check(experiment)
    except UserError as error:
        raise UserError(f"{path} does not fit this version of the code: {error}") from None
    return experiment


def check_run_folder(folder: pathlib.Path) -> None:
    """Raises UserError when a folder has a config.json that no run wrote; a folder without config.json passes."""
    if (folder / "config.json").is_file():
        _read_config(folder)


def _read_config(folder: AnyPath) -> dict[str, typing.Any]:
    """A folder's config.json. Raises UserError when no run wrote it."""
    path = folder / "config.json"
    stored = read_json(path, remedy="put a copy of it back")
    if {"model_type", "architectures"} & stored.keys():
        raise UserError(
            f"{folder} is a folder of published weights, not a run folder; read it into one first: "
            f"python -m launch.convert --from={folder} --run=runs/{folder.resolve().name}"
        )
    if not {"model", "data", "training"} <= stored.keys():
        raise UserError(f"{path} is not the config of a run; give another folder")
    return stored


def check_same_experiment(experiment: Experiment, run: pathlib.Path) -> None:
    """Raises UserError, with a list of the fields, when a run folder belongs to another experiment."""
    before = load(run)
    found = exclude_paths(differences(to_json(before), to_json(experiment)), marked_fields(experiment, "execution"))
    if changed := found + list(changed_texts(before.evaluations, experiment.evaluations)):
        listed = "\n  ".join(changed)
        raise UserError(
            f"{run} holds a run of another config (its value -> the one given):\n  {listed}\n"
            "Give another --run, or the config that made it."
        )
