"""The training loop: batch n, the step, what comes back, and what is done every so many steps.

The metrics of step n - 1 are fetched after step n was dispatched, so that the device never waits for the log.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax

from model.errors import UserError
from model.transformer import abstract_params, logical_axes
from train import experiment as experiments
from train.checkpoints.faults import UnreadableError
from train.checkpoints.store import CheckpointStore
from train.data.batches.pipeline import Batches
from train.data.config import HuggingFace, SentencePieceFile
from train.data.prepare import settings
from train.data.prepare.prepare import prepare
from train.data.prepare.progress import TerminalReporter
from train.data.shards.dataset import Dataset, is_dataset, open_dataset
from train.data.tokenizers.interface import Tokenizer
from train.evaluation.validation import SplitEvaluation
from train.experiment import Experiment
from train.generation.samples import draw_samples
from train.generation.texts import check_prompts
from train.optimizers import rounding
from train.parallel import feed
from train.parallel.mesh import make_mesh
from train.parallel.table import layout_of, param_shardings
from train.process.preemption import StopRequest
from train.report import write_report
from train.run import folder as run_folder
from train.run import parameter_table as parameters
from train.run.clock import PROCESS_START, Clock
from train.run.environment import record_session
from train.run.files import write_json
from train.run.formatting import fixed
from train.run.loaded import load_params
from train.run.metrics import MetricsWriter, read_metrics, read_status
from train.run.paths import AnyPath, absolute, written_out
from train.run.pretrained import check_start, starting_params
from train.run.progress import Progress
from train.run.spool import spooled
from train.state import TrainState, abstract_state, evaluation_params, init_sharded, state_shardings
from train.step import compile_train_step

Say = Callable[[str], None]

_HOLD_OUT = (
    "prepare the text with data.validation=WholeFiles(), Tail(fraction=0.1) where it is one file, or "
    "SeparateText(path=...)"
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended: whether the run is finished, was stopped at a step asked for, or was interrupted."""

    state: Literal["finished", "stopped", "interrupted"]
    step: int
    reason: str | None = None


def train(experiment: Experiment, run: AnyPath, hard_stop: int | None = None, say: Say = print) -> Outcome:
    """Trains until the last step, `hard_stop`, or a signal; goes on where the run folder ends.

    Args:
      experiment: the resolved, checked experiment.
      run: its folder, made if need be; one in a store is written here and uploaded (train/run/spool.py).
      hard_stop: end at this step without changing the schedule.
      say: prints a line that the user should see.

    Raises:
      UserError: for everything that the user can mend.
    """
    if jax.process_count() > 1:
        raise UserError("launch.train runs on the devices of one host; start it in one process")
    if not isinstance(run, pathlib.Path):
        with spooled(run, say) as spool:
            return train(experiment, spool, hard_stop, say)
    experiment = written_out(experiment)
    check_mesh(experiment)
    parameters.refuse_too_large(experiment, make_mesh(experiment.mesh))
    sources = experiment.data.sources()
    if experiment.data.validation is None and not any(is_dataset(source.path) for source in sources):
        settings.list_sources(experiment.data, finished=False)  # a text that is not there is the first thing to say
        raise UserError(f"data.validation: a run is measured on text that is held out, got None; {_HOLD_OUT}")
    with run_folder.locked(run), StopRequest() as stop:
        if is_finished(experiment, run):
            say(f"{run} is finished: nothing is left to train, and nothing in it was changed; --run names another run")
            return Outcome("finished", experiment.training.num_steps)
        if experiment.training.start_from is not None and not run_folder.has_begun(run):
            check_start(experiment)
        run_folder.claim(run, experiment)
        try:
            with stop.at_once():
                fits = functools.partial(check_vocabulary, experiment)
                dataset = open_dataset(prepare(experiment.data, run / "data", TerminalReporter(), check=fits))
        except KeyboardInterrupt:
            return Outcome(
                "interrupted", 0, f"{stop.requested} while the text was prepared; the same command continues"
            )
        check_vocabulary(experiment, dataset.tokenizer, dataset.folder)
        check_prompts(experiment.model, dataset.tokenizer, experiment.samples.prompts)
        if "validation" not in dataset.about["splits"]:
            raise UserError(f"{dataset.folder} has no validation split, and a run is measured on one; {_HOLD_OUT}")
        for name in dataset.about["splits"]:
            if (lost := dataset.lost_in_words(name)) is not None:
                say(f"WARNING: {name} text: {lost}; bits per byte are not those of the original text")
        write_json(run / "data.json", {"dataset": str(absolute(dataset.folder))})
        write_json(run / "parameters.json", parameters.as_json(experiment))
        last_step = min(experiment.training.num_steps, hard_stop or experiment.training.num_steps)
        outcome = _Trainer(experiment, run, dataset, last_step, say).run(stop)
        write_report(run)
        return outcome


def check_mesh(experiment: Experiment) -> None:
    """Raises UserError when the devices, the batch or a parameter do not fit the mesh; makes no array."""
    mesh = make_mesh(experiment.mesh)
    rows = layout_of(mesh, experiment.sharding).placement(("batch", "sequence"))
    feed.check_divides(experiment.data.batch_size, experiment.training.gradient_accumulation, rows)
    feed.check_length(experiment.data.sequence_length, rows)
    shapes, axes = abstract_params(experiment.model), logical_axes(experiment.model)
    param_shardings(mesh, experiment.sharding, axes, shapes)


def check_vocabulary(experiment: Experiment, tokenizer: Tokenizer, folder: AnyPath) -> None:
    """Raises UserError when the tokenizer's vocabulary is not the model's."""
    size = tokenizer.vocab_size
    if size != experiment.model.vocab_size:
        model, option = experiment.model.vocab_size, tokenizer.option
        ways = [] if experiment.training.start_from else [f"--set model.vocab_size={size}"]
        if size < model and isinstance(option, HuggingFace | SentencePieceFile):
            ways.append(f"--set data.tokenizer.vocab_size={model}, where the model has rows that no token uses")
        ways.append("a dataset that was made for this model")
        raise UserError(
            f"model.vocab_size={model}, but the tokenizer of {folder} has {size} tokens; use {', or '.join(ways)}"
        )


def is_finished(experiment: Experiment, run: pathlib.Path) -> bool:
    """Whether a run has ended at its last step and the parameters of that checkpoint are whole.

    Raises UserError when it is the run of another experiment, or when that checkpoint cannot be read.
    """
    status, last = read_status(run) or {}, experiment.training.num_steps
    if status.get("state") != "finished" or not (run / "config.json").is_file():
        return False
    experiments.refuse_differences(experiment, run)
    try:
        return load_params(run, str(last), mesh=experiment.mesh, sharding=experiment.sharding).step == last
    except UnreadableError:
        raise
    except UserError:  # which going on mends, or says again
        return False


class _Dispatched(NamedTuple):
    """A step that was given to the devices: its number, its scalars, and a function that waits for its end."""

    step: int
    scalars: dict[str, jax.Array]
    ended: Callable[[], float]


class _Trainer:
    """One session of one run."""

    def __init__(self, experiment: Experiment, run: pathlib.Path, dataset: Dataset, last_step: int, say: Say) -> None:
        self.experiment, self.folder, self.dataset, self.last_step, self.say = experiment, run, dataset, last_step, say
        self.mesh = make_mesh(experiment.mesh)
        layout = layout_of(self.mesh, experiment.sharding)
        self.rows = layout.placement(("batch", "sequence"))
        self.stateful = (experiment.model, experiment.optimizer, experiment.training.guard)
        self.placed = state_shardings(*self.stateful, self.mesh, experiment.sharding)
        self.step_fn = compile_train_step(experiment, self.mesh)
        self.evaluation = SplitEvaluation(experiment, dataset, self.mesh)
        self.draw = functools.partial(draw_samples, experiment, tokenizer=dataset.tokenizer, layout=layout)
        self.batches = Batches(dataset, experiment.data, "train")
        self.clock = Clock(experiment, self.mesh)
        self.tokens = 0  # targets of all the steps that were logged
        self.evaluated: tuple[int, float] | None = None  # the step and the loss of the last evaluation
        self.best = math.inf

    def run(self, stop: StopRequest) -> Outcome:
        """Restores or starts, trains, and leaves the folder in order whatever happens."""
        total, logging = self.experiment.training.num_steps, self.experiment.logging
        writer = MetricsWriter(
            self.folder,
            session=record_session(self.folder),
            tensorboard=logging.tensorboard,
            wandb_project=logging.wandb_project,
        )
        with writer as self.metrics, CheckpointStore(self.folder, self.experiment.checkpoints, self.say) as self.store:
            state = self._start()
            step = int(state.step)
            for line in rounding.warnings(self.experiment, state.params, state.opt_state):
                self.say(line)
            with Progress("training", total, start=step, until=self.last_step) as self.progress:
                self.store.say = self.progress.message
                self.metrics.status("running", step, total_steps=total)
                try:
                    outcome = self._steps(state, step, stop)
                    self.store.finish()
                    self._require_saved(outcome.step)
                except BaseException as error:
                    self.metrics.status("failed", self.progress.done, total_steps=total, reason=str(error)[:300])
                    raise
            self.metrics.status(outcome.state, outcome.step, total_steps=total, reason=outcome.reason)
        return outcome

    def _require_saved(self, step: int) -> None:
        """Raises UserError when the run ends at a step whose checkpoint could not be written: that is no good end."""
        if step and step not in (kept := self.store.steps()):
            raise UserError(
                f"the checkpoint of step {step}, where this session ends, could not be written to {self.store.folder}: "
                f"{self.store.failure}; make room or mend that, and give the same command again: it goes on from step "
                f"{max(kept, default=0)}"
            )

    def _start(self) -> TrainState:
        """The state of the newest whole checkpoint, or the first one; the metric files are rewound to it."""
        state = self.store.restore_latest(self.experiment, self.placed, abstract_state(*self.stateful))
        if state is None:
            if self.metrics.set_aside():
                self.say(
                    f"{self.folder} has no checkpoint: starting over; what was logged before is in files named .old"
                )
            params = starting_params(self.experiment, self.folder)
            return init_sharded(*self.stateful, self.experiment.training.seed, self.placed, params)
        step = int(state.step)
        self.metrics.truncate(step)
        lines = read_metrics(self.folder)
        losses = [line.get("loss") for line in lines if line.get("kind") == "eval"]
        self.best = min((loss for loss in losses if loss is not None and not math.isnan(loss)), default=math.inf)
        self.tokens = self._tokens_of(step, lines)
        self.say(f"resuming {self.folder} at step {step} of {self.experiment.training.num_steps}")
        return state

    def _tokens_of(self, step: int, lines: list[dict[str, Any]]) -> int:
        """The targets of so many steps: those of the last step in the log, and a count of the batches since."""
        logged = [line for line in lines if line.get("kind") == "train" and "padding" in line]
        last, tokens = (logged[-1]["step"], logged[-1]["tokens"]) if logged else (0, 0)
        return tokens + sum(map(self.batches.num_targets, range(last, step)))

    def _steps(self, state: TrainState, step: int, stop: StopRequest) -> Outcome:
        """The loop itself."""
        num_steps = self.experiment.training.num_steps
        saved = step
        pending: _Dispatched | None = None
        batches = self._batches(step)
        self.clock.start(step)
        while step < self.last_step and stop.requested is None:
            with self.clock.waiting():
                batch = next(batches)
            state, scalars = self.step_fn(state, batch)
            step += 1
            dispatched = _Dispatched(step, scalars, self.clock.watch(scalars))
            self.store.poll()
            self._log(pending)
            pending = dispatched
            if self._is_due(step, self.experiment.evaluation.every, self.experiment.checkpoints.every):
                self._log(pending)
                pending = None
                saved = self._pause(state, step) or saved
        self._log(pending)
        self._time(step)
        if saved != step:
            self._save(state, step)
        if step >= num_steps:
            return Outcome("finished", step)
        if stop.requested is None:
            return Outcome("stopped", step, f"--hard_stop={self.last_step}")
        return Outcome("interrupted", step, f"{stop.requested}; the same command continues from step {step}")

    def _is_due(self, step: int, *intervals: int) -> bool:
        """Whether something that is done every so many steps, and at the last one, is done at this one."""
        return step == self.experiment.training.num_steps or any(step % every == 0 for every in intervals)

    def _batches(self, start: int) -> Iterator[dict[str, jax.Array]]:
        """Batches start, start + 1, ... on the mesh."""
        data = self.experiment.data
        for batch in self.batches.iterator(start, feed.local_rows(self.rows, data.batch_size)):
            yield feed.place(batch, self.rows, data.batch_size, isolated=not data.cross_document_attention)

    def _log(self, pending: _Dispatched | None) -> None:
        """Fetches the scalars of a step, which the device has finished or is finishing, and writes what is due."""
        if pending is None:
            return
        step, scalars, data = pending.step, jax.device_get(pending.scalars), self.experiment.data
        ended, tokens = pending.ended(), int(scalars.pop("tokens"))
        if step == 1:
            self.say(f"first step {ended - PROCESS_START:.1f} s after the command")
        consecutive = int(scalars.pop("consecutive"))
        if consecutive >= self.experiment.training.guard.max_consecutive:
            raise UserError(
                f"steps {step - consecutive + 1} to {step} were all skipped: loss or gradient norm not finite, or an "
                f"outlier (last loss {scalars['loss']}, gradient norm {scalars['grad_norm']}). Lower "
                "schedule.peak or training.clip_norm, or look at these batches with launch.data show"
            )
        self.clock.ended(step, ended, tokens)
        self.tokens += tokens
        self.progress.update(step, loss=float(scalars["loss"]))
        due = self._is_due(step, self.experiment.logging.every)
        if due:
            padding = 1 - tokens / (data.batch_size * data.sequence_length)
            self.metrics.train(step, scalars | {"tokens": self.tokens, "padding": padding})
        if due or self.clock.compiling:
            self._time(step)

    def _time(self, step: int) -> None:
        """Writes what the clock says of the steps up to this one, unless it was written already."""
        if step == self.clock.step:
            return
        timing = self.clock.read()
        self.metrics.throughput(step, timing | {"tokens": self.tokens})
        if not timing["includes_compilation"]:
            self.progress.update(step, tokens_per_second=timing["tokens_per_second"], mfu=timing["mfu"])

    def _pause(self, state: TrainState, step: int) -> int | None:
        """Evaluation, samples and checkpoint, where they are due; returns the step if it was saved."""
        improved = False
        with self.clock.paused(), self.progress.paused():
            if self._is_due(step, self.experiment.evaluation.every):
                improved = self._evaluate(state, step)
            due = self._is_due(step, self.experiment.checkpoints.every)
            if due or (improved and self.experiment.checkpoints.keep_best > 0):
                self._save(state, step)
                return step
        return None

    def _evaluate(self, state: TrainState, step: int) -> bool:
        """Measures the validation split and draws the samples; returns whether the loss is the lowest so far."""
        values = self.evaluation(state)
        if (lost := self.dataset.lost("validation")) is not None and lost.documents:
            values |= {"bytes_not_restored": lost.bytes}
        self.metrics.evaluation(step, values)
        beside = "" if (words := self.dataset.lost_in_words("validation")) is None else f" ({words})"
        loss, bits = fixed(values["loss"]), fixed(values["bits_per_byte"])
        self.say(f"step {step}: validation loss {loss}, {bits} bits per byte{beside}")
        if self.experiment.samples.prompts:
            params = evaluation_params(self.experiment.optimizer, state)
            for sample in self.draw(params, self.experiment.samples.prompts, seed=step):
                self.metrics.sample(step, sample.text)
        self.evaluated = (step, values["loss"])
        improved = values["loss"] < self.best
        self.best = min(self.best, values["loss"])
        return improved

    def _save(self, state: TrainState, step: int) -> None:
        """Saves in the background; the metric files reach the disk first, since a resumed run rewinds them to here."""
        self.metrics.flush()
        loss = self.evaluated[1] if self.evaluated is not None and self.evaluated[0] == step else None
        self.store.save(self.experiment, state, step, loss)
