"""The training loop: batch n, the step, and the hooks that are due after it."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax

from model.errors import UserError
from model.kernels.selection import choices_said
from model.options.tree import find_warnings
from train.checkpoints.store import CheckpointStore
from train.data.prepare import settings
from train.data.prepare.prepare import prepare
from train.data.prepare.progress import TerminalReporter
from train.data.shards.dataset import Dataset, open_dataset
from train.evaluation.named_evaluations import prepare_texts, refuse_missing_texts
from train.experiment import Experiment
from train.files.files import write_json
from train.files.paths import AnyPath, absolute, expand_paths
from train.files.spool import open_spool
from train.generation.texts import check_prompts
from train.hooks.interface import Hook, HookMaker, Say, Session, StepInfo, make_hook
from train.hooks.log import Log
from train.hooks.of_experiment import hooks_of
from train.hooks.preparing import Preparing
from train.hooks.programs import ALONE, Programs
from train.hooks.saves import SavesHook, require_saved
from train.optimizers import rounding
from train.parallel import feed
from train.parallel.mesh import make_mesh
from train.parallel.table import layout_of
from train.process import hosts
from train.process.agreement import StopAgreement
from train.process.stop import Stop
from train.process.watchdog import Watchdog, end_stalled
from train.report import write_report
from train.run import folder as run_folder
from train.run import parameter_table as parameters
from train.run import together
from train.run.checks import check_mesh, check_vocabulary, is_finished, refuse_quantized
from train.run.clock import Clock
from train.run.environment import record_session
from train.run.metrics import MetricsWriter, NoMetrics, read_metrics
from train.run.pretrained import check_start, initial_state
from train.run.time_spent import TimeSpent
from train.state import Held, StateConfig, TrainState, abstract_state, state_shardings
from train.step import StepFn
from train.terminal.progress import Progress


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended: whether the run is finished, was stopped at a step asked for, or was interrupted."""

    state: Literal["finished", "stopped", "interrupted"]
    step: int
    reason: str | None = None


def train(
    experiment: Experiment,
    run: AnyPath,
    hard_stop: int | None = None,
    say: Say = print,
    stop: Stop | None = None,
    hooks: Sequence[HookMaker] = (),
    stall_seconds: float = 0.0,
    programs: Programs = ALONE,
) -> Outcome:
    """Trains until the last step, `hard_stop`, or a request to stop; continues from the run's latest checkpoint.

    Args:
      experiment: the resolved, checked experiment.
      run: its folder, created if missing; a folder in a store is written locally and uploaded (train/files/spool.py).
      hard_stop: end at this step without changing the schedule.
      say: prints a line that the user should see.
      stop: may request the end, as `launch.command.signals.StopRequest` does at a signal; None for no such requests.
      hooks: makers of further hooks (train/hooks/interface.py), called after those of the experiment, before saves.
      stall_seconds: ends the process after this time without progress (train/process/watchdog.py); 0 for never.
      programs: makes its compiled programs; others than those of a run alone come from train/joint.

    Raises:
      UserError: for everything that the user can fix.
    """
    if jax.process_count() != hosts.count():
        raise UserError(
            f"jax runs in {jax.process_count()} processes, which Cairn has not joined; start them with launch.train, "
            "or call train.process.hosts.begin in each before jax starts"
        )
    if hosts.joined():
        together.refuse_store(run)
        together.require_same_command(experiment, hard_stop)
        say = say if hosts.is_writer() else together.silent
    if not isinstance(run, pathlib.Path):
        with open_spool(run, say) as spool:
            return train(experiment, spool, hard_stop, say, stop, hooks, stall_seconds, programs)
    began = time.monotonic()
    experiment, stop = expand_paths(experiment), stop or Stop()
    opened: list[Dataset] = []
    with contextlib.ExitStack() as stack, hosts.explain_failures():
        begun = hosts.from_writer(lambda: _begin(experiment, run, say, stop, stack, opened))
        if "outcome" in begun:
            return Outcome(**begun["outcome"])
        together.require_shared_folder(run)
        dataset = opened[0] if opened else open_dataset(begun["dataset"])
        last_step = min(experiment.training.num_steps, hard_stop or experiment.training.num_steps)
        trainer = _Trainer(experiment, run, dataset, last_step, say, began, programs)
        outcome = trainer.run(stop, hooks, stall_seconds)
        hosts.from_writer(lambda: str(write_report(run)))
        return outcome


def _begin(
    experiment: Experiment,
    run: pathlib.Path,
    say: Say,
    stop: Stop,
    stack: contextlib.ExitStack,
    opened: list[Dataset],
) -> dict[str, Any]:
    """Checks the command, locks the run folder until `stack` ends, and prepares the data; in the writer only.

    Returns the dataset's folder, and appends the dataset to `opened`; or returns the outcome if there is nothing to
    train.
    """
    refuse_quantized(experiment.model, f"{run}: training")
    check_mesh(experiment)
    parameters.check_memory(experiment, make_mesh(experiment.mesh))
    refuse_missing_texts(experiment.evaluations, run)
    experiment.data.require_validation()
    stack.enter_context(run_folder.locked(run))
    if is_finished(experiment, run):
        say(f"{run} is finished: nothing is left to train, and nothing in it was changed; --run names another run")
        return {"outcome": dataclasses.asdict(Outcome("finished", experiment.training.num_steps))}
    if not run_folder.has_begun(run):
        check_start(experiment)
    run_folder.claim(run, experiment)
    try:
        with stop.raise_immediately():
            dataset = _prepare(experiment, run, say)
    except KeyboardInterrupt:
        if stop.requested is None:
            raise
        reason = f"{stop.requested} while the text was prepared; the same command continues"
        return {"outcome": dataclasses.asdict(Outcome("interrupted", 0, reason))}
    folder = str(absolute(dataset.folder))
    write_json(run / "data.json", {"dataset": folder})
    write_json(run / "parameters.json", parameters.as_json(experiment))
    opened.append(dataset)
    return {"dataset": folder}


def _prepare(experiment: Experiment, run: pathlib.Path, say: Say) -> Dataset:
    """The checked dataset of a run. Tokenizes it and the further texts to evaluate if they are not tokenized yet."""
    fits = functools.partial(check_vocabulary, experiment)
    data = experiment.data.starting_from(experiment.training.starts_from)
    dataset = open_dataset(prepare(data, run / "data", TerminalReporter(), check=fits))
    check_vocabulary(experiment, dataset.tokenizer, dataset.folder)
    check_prompts(experiment.model, dataset.tokenizer, experiment.samples.prompts)
    if "validation" not in dataset.description["splits"]:
        raise UserError(f"{dataset.folder} has no validation split, and a run needs one; {settings.HOLD_OUT}")
    for name in dataset.description["splits"]:
        if (lost := dataset.unrestored_in_words(name)) is not None:
            say(f"WARNING: {name} text: {lost}; bits per byte are not those of the original text")
    prepare_texts(experiment.evaluations, run, dataset, TerminalReporter())
    return dataset


class _Trainer:
    """One session of a run."""

    def __init__(
        self,
        experiment: Experiment,
        run: pathlib.Path,
        dataset: Dataset,
        last_step: int,
        say: Say,
        began: float,
        programs: Programs,
    ) -> None:
        self.experiment, self.folder, self.dataset, self.last_step, self.say = experiment, run, dataset, last_step, say
        self.began, self.programs = began, programs
        self.mesh = make_mesh(experiment.mesh)
        self.layout = layout_of(self.mesh, experiment.sharding)
        self.rows = self.layout.placement(("batch", "sequence"))
        self.state_config = StateConfig.of(experiment)
        self.shardings = state_shardings(self.state_config, self.mesh, experiment.sharding)
        self.jitted_step = programs.compile_step(experiment, self.mesh)
        self.step_fn: StepFn = self._compile_and_step
        self.statistics_step_fn: StepFn | None = None
        self.with_segments = feed.needs_segments(experiment.data, experiment.model)
        fields = feed.batch_fields(experiment.objective.fields, experiment.data, experiment.model)
        self.batches = experiment.data.training_batches(dataset, fields)
        self.clock = Clock(experiment, self.mesh)
        self.called: set[Hook] = set()

    def run(self, stop: Stop, makers: Sequence[HookMaker], stall_seconds: float) -> Outcome:
        """Restores or initializes the state, trains, and closes all files, also after an error."""
        total, logging = self.experiment.training.num_steps, self.experiment.logging
        with contextlib.ExitStack() as stack:
            number = hosts.from_writer(lambda: record_session(self.folder))
            writer = MetricsWriter if hosts.is_writer() else NoMetrics
            metrics = writer(
                self.folder, session=number, tensorboard=logging.tensorboard, wandb_project=logging.wandb_project
            )
            self.metrics = stack.enter_context(metrics)
            self.spent = stack.enter_context(TimeSpent(self.folder if hosts.is_writer() else None, number, self.began))
            self.watchdog = stack.enter_context(self._watchdog(stall_seconds))
            session = self._session()
            self.log = Log(session, self.batches, self.clock, self.spent)
            replayed: list[int] = []
            self.preparing = stack.enter_context(contextlib.closing(Preparing(session, self.clock)))
            self.hooks = [*hooks_of(session, self.batches, replayed), *(make_hook(make, session) for make in makers)]
            for hook in self.hooks:
                stack.callback(hook.close)
            store = CheckpointStore(self.folder, self.experiment.checkpoints, self.say, replayed=replayed)
            self.store = stack.enter_context(store)
            with self.watchdog.doing("the start of the run", patient=True):
                state = self._start()
            step = int(state.step)
            self.saves = SavesHook(session, self.store, step, lambda: self.preparing.saved(self.log.tokens))
            self.hooks.append(self.saves)
            warned = [f"WARNING: {line}" for line in find_warnings(self.experiment.model, "model")]
            warned += [*parameters.whole_latents(self.experiment)]
            for line in (*warned, *rounding.warnings(self.experiment, state.params, state.opt_state)):
                self.say(line)
            held, shown = self.programs.hold(state), hosts.is_writer() and self.programs.shows_progress
            del state
            with Progress("training", total, start=step, until=self.last_step, enabled=shown) as self.progress:
                self.message = self.progress.message if self.programs.shows_progress else self.say
                self.store.say = self.message
                self.metrics.status("running", step, total_steps=total)
                if (group := hosts.group()) is not None:
                    group.watch.on_end = self._failed
                try:
                    with hosts.explain_failures():
                        outcome = self._steps(held, step, StopAgreement(stop, hosts.group()))
                        with self.watchdog.doing("the last save", patient=True):
                            self.store.finish()
                    require_saved(self.store, outcome.step)
                except BaseException as error:
                    self.metrics.status("failed", self.progress.done, total_steps=total, reason=str(error)[:300])
                    raise
            self.metrics.status(outcome.state, outcome.step, total_steps=total, reason=outcome.reason)
        return outcome

    def _session(self) -> Session:
        return Session(
            experiment=self.experiment,
            folder=self.folder,
            dataset=self.dataset,
            mesh=self.mesh,
            layout=self.layout,
            metrics=self.metrics,
            say=self.say,
            alive=self.watchdog.alive,
            programs=self.programs,
            spent_on=self.spent.on,
        )

    def _watchdog(self, seconds: float) -> Watchdog:
        """Ends this session when it stands still; the other processes write their stacks too."""
        group = hosts.group()
        watchdog = Watchdog(
            seconds,
            self.folder / "logs" / f"stacks-{hosts.index()}.txt",
            end_stalled,
            say=self._failed,
            ask_others=None if group is None else lambda: group.watch.tell("stacks"),
        )
        if group is not None:
            group.watch.on_stacks = watchdog.dump
        return watchdog

    def _failed(self, reason: str) -> None:
        """Notes that the run failed, while it is prepared too."""
        done, total = getattr(getattr(self, "progress", None), "done", 0), self.experiment.training.num_steps
        self.metrics.status("failed", done, total_steps=total, reason=reason)

    def _start(self) -> TrainState:
        """The state of the newest undamaged checkpoint, or the initial state; rewinds the metric files to its step."""
        state = self.store.restore_latest(self.experiment, self.shardings, abstract_state(self.state_config))
        if state is None:
            if self.metrics.rename_old_files():
                self.say(
                    f"{self.folder} has no checkpoint: starting over; what was logged before is in files named .old"
                )
            state = initial_state(self.experiment, self.folder, self.shardings)
            self.log.resumed(int(state.step), [])  # not 0 in a branch of another run
            return state
        step = int(state.step)
        tokens = self.preparing.restore(self.store.carried)
        self.metrics.truncate(step)
        lines = hosts.from_writer(lambda: read_metrics(self.folder))
        self.log.resumed(step, lines, tokens)
        for hook in self.hooks:
            hook.resumed(step, lines)
        self.say(f"resuming {self.folder} at step {step} of {self.experiment.training.num_steps}")
        return state

    def _steps(self, state: Held, step: int, stop: StopAgreement) -> Outcome:
        """The loop itself."""
        num_steps = self.experiment.training.num_steps
        batches = feed.batches_on_devices(self.batches, self.rows, step, with_segments=self.with_segments)
        for hook in self.hooks:
            hook.begin(step)
        self.spent.begin_steps(step)
        self.log.start(step, self.progress, self.hooks)
        stop.start(step)
        info = None
        while step < self.last_step and not stop.reached(step):
            with self.clock.waiting(), self.watchdog.doing("the wait for a batch"):
                batch = next(batches)
            with self.watchdog.doing(f"the preparation of step {step + 1}", patient=self.clock.compiling):
                batch = dict(self.preparing(state, batch, step))
            step += 1
            if info is None and hosts.joined():
                self._compile_together(state, batch)
            elif info is not None and self.experiment.data.grows_at(step - 1):
                self._grow_batch(state, batch)
            with self.watchdog.doing(f"step {step}", patient=self.clock.compiling):
                step_fn = self._step_fn(step, state, batch)
                with self.clock.dispatching():
                    state, scalars = step_fn(state, batch)
                scalars = self.preparing.with_scalars(scalars)
                self.log.dispatched(step, scalars)  # waits for an earlier step when some are under way
            self.store.poll()
            info = StepInfo(step=step, last=step == num_steps, held=state, scalars=scalars)
            if any(hook.due(info) for hook in self.hooks):
                self._call_hooks(info)
        with self.watchdog.doing("the last step", patient=self.clock.compiling):
            self.log.catch_up()
        self.log.time(step)
        if info is not None and self.saves.saved != step:
            with self.spent.on("saving"), self.watchdog.doing("the last save", patient=True):
                self.saves(info)
        self.log.record_time_spent(step)
        reason = hosts.from_writer(lambda: stop.reason)  # others may have heard of a stop after the last step
        if step >= num_steps:
            return Outcome("finished", step)
        if reason is None:
            return Outcome("stopped", step, f"--hard_stop={self.last_step}")
        return Outcome("interrupted", step, f"{reason}; the same command continues from step {step}")

    def _grow_batch(self, state: Held, batch: dict[str, jax.Array]) -> None:
        """Compiles the step for a larger batch, which the clock does not count."""
        self.log.catch_up()
        self.statistics_step_fn = None
        with self.spent.on("other"), self.clock.paused(), self.progress.paused():
            self._compile_together(state, batch)

    def _compile_together(self, state: Held, batch: dict[str, jax.Array]) -> None:
        """Compiles the step in all processes before one runs it: gloo's collectives wait 30 s for a late one."""
        with self.watchdog.doing("compiling", patient=True):
            with choices_said(self.message):
                lowered = self.jitted_step.lower(state, batch)
            self.step_fn = lowered.compile()
            hosts.gather("")

    def _compile_and_step(self, state: Held, batch: Mapping[str, jax.Array]) -> tuple[Held, dict[str, Any]]:
        with choices_said(self.message):
            result = self.jitted_step(state, batch)
        self.step_fn = self.jitted_step
        return result

    def _step_fn(self, step: int, state: Held, batch: dict[str, jax.Array]) -> StepFn:
        """The compiled function of a step. Steps with statistics have their own; its compilation is not timed."""
        statistics = self.experiment.statistics
        if statistics is None or not statistics.is_due(step, self.experiment.training.num_steps):
            return self.step_fn
        if self.statistics_step_fn is None:
            self.log.catch_up()
            compiling = self.watchdog.doing("compiling", patient=True)
            with self.spent.on("other"), self.clock.paused(), self.progress.paused(), compiling:
                jitted = self.programs.compile_step(self.experiment, self.mesh, statistics)
                self.statistics_step_fn = jitted.lower(state, batch).compile()
        return self.statistics_step_fn

    def _call_hooks(self, info: StepInfo) -> None:
        """Calls the due hooks after the step has ended and its line is written."""
        with self.watchdog.doing("the step before the hooks", patient=self.clock.compiling):
            self.log.catch_up()
        with self.clock.paused(), self.progress.paused():
            for hook in self.hooks:
                if hook.due(info):
                    patient = hook is self.saves or (hook.compiles and hook not in self.called)
                    with self.spent.on(hook.activity), self.watchdog.doing(type(hook).__name__, patient=patient):
                        hook(info)
                    self.called.add(hook)
