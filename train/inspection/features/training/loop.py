"""Trains autoencoders on a run's activations: blocks of activations, updates, evaluations, checkpoints."""

import contextlib
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from model.errors import UserError
from train.inspection.features.training import folder as folders
from train.inspection.features.training.measures import Evaluation, Measures
from train.inspection.features.training.report import result_of
from train.inspection.features.training.sae_lens import write_autoencoder
from train.inspection.features.training.settings import Features
from train.inspection.features.training.state import folded, state_bytes
from train.inspection.features.training.step import Programs, States
from train.inspection.features.training.stream import ActivationStream, Block
from train.loop import Outcome
from train.process import hosts
from train.process.stop import Stop
from train.run.environment import record_session
from train.run.folder import locked
from train.run.loading import LoadedRun
from train.run.metrics import MetricsWriter
from train.terminal.progress import Progress


def train_features(
    run: LoadedRun,
    features: Features,
    folder: pathlib.Path,
    say: Callable[[str], None] = print,
    stop: Stop | None = None,
    hard_stop: int | None = None,
) -> Outcome:
    """Trains until the last step, `hard_stop`, or a request to stop; continues from the folder's latest checkpoint.

    Args:
      run: the model, on its mesh.
      features: the checked options.
      folder: where everything is written; see folder.py.
      say: prints a line that the user should see.
      stop: may request the end.
      hard_stop: end at this step without changing the schedule.

    Raises UserError for everything that the user can fix.
    """
    if hosts.joined():
        raise UserError("autoencoders are trained by one process; start the command once")
    if run.layout.pipeline is not None:
        raise UserError("the stages of a pipeline offer no taps to autoencoders; give --mesh without stage")
    activations = ActivationStream(run, features)
    folders.claim(folder, features, run)
    with locked(folder):
        return _Trainer(run, features, activations, folder, say).train(stop or Stop(), hard_stop)


class _Trainer:
    """One session."""

    def __init__(
        self,
        run: LoadedRun,
        features: Features,
        activations: ActivationStream,
        folder: pathlib.Path,
        say: Callable[[str], None],
    ) -> None:
        self.run, self.features, self.stream, self.folder, self.say = run, features, activations, folder, say
        self.programs = Programs(features, run.experiment.model.num_layers, activations.widths, run.layout)
        self.evaluation = Evaluation(activations, features)
        self.measured: dict[str, Measures] = {}
        self._block: tuple[int, Block] | None = None

    def train(self, stop: Stop, hard_stop: int | None) -> Outcome:
        """Restores or initialises the states, trains, and closes all files, also after an error."""
        total = self.features.num_steps
        last = min(total, hard_stop or total)
        with contextlib.ExitStack() as stack:
            session = record_session(self.folder)
            self.metrics = stack.enter_context(MetricsWriter(self.folder, session=session, tensorboard=False))
            states, step = self._start()
            self._report(states)
            progress = stack.enter_context(Progress("features", total, start=step, until=last))
            self.metrics.status("running", step, total_steps=total)
            try:
                states, step = self._steps(states, step, last, stop, progress)
            except BaseException as error:
                self.metrics.status("failed", progress.done, total_steps=total, reason=str(error)[:300])
                raise
            outcome = _outcome(step, total, last, stop.requested)
            self.metrics.status(outcome.state, step, total_steps=total, reason=outcome.reason)
        self._write(states)
        return outcome

    def _start(self) -> tuple[States, int]:
        abstract = jax.eval_shape(self.programs.init, self.programs.abstract_block())
        found = folders.restore(self.folder, abstract, self.programs.place)
        if found is None:
            self.metrics.rename_old_files()
            return self.programs.init(self._block_of(0)), 0
        states, step = found
        self.metrics.truncate(step)
        self.say(f"resuming {self.folder} at step {step} of {self.features.num_steps}")
        return states, step

    def _report(self, states: States) -> None:
        names = ", ".join(site.text for site in self.stream.sites)
        tokens = self.stream.batches_per_block * self.stream.tokens_per_batch
        size = sum(width for width in self.stream.widths.values()) * tokens * 4
        self.say(
            f"{len(states)} autoencoder(s) of {names}; a buffer of {tokens:,} tokens, at most {size / 2**20:,.0f} MiB; "
            f"states of {state_bytes(states) / 2**20:,.0f} MiB"
        )

    def _steps(self, states: States, step: int, last: int, stop: Stop, progress: Progress) -> tuple[States, int]:
        began, first, saved = time.monotonic(), step, step
        resamplers = {option.name: option.architecture.resampler() for option in self.features.autoencoders}
        while step < last and stop.requested is None:
            block, at = divmod(step, self.stream.steps_per_block)
            offset, number = np.int32(at * self.features.batch_tokens), np.int32(step)
            states, metrics = self.programs.step(states, self._block_of(block), offset, number)
            step += 1
            if due := tuple(n for n, r in resamplers.items() if r is not None and step % r.every == 0):
                states = self.programs.resample(states, self._block_of(block), offset, number, due)
            if step % self.features.log_every == 0 or step == last:
                self._log(step, jax.device_get(metrics), progress, (step - first) / (time.monotonic() - began))
            if step % self.features.eval_every == 0 or step == self.features.num_steps:
                with progress.paused():
                    self._evaluate(states, step)
            if step % self.features.save_every == 0:
                saved = self._save(states, step)
        if saved != step:
            self._save(states, step)
        return states, step

    def _block_of(self, number: int) -> Block:
        """A block of activations; the one in memory is given up before the next is made."""
        if self._block is None or self._block[0] != number:
            self._block = None
            self._block = number, self.stream.block(number)
        return self._block[1]

    def _log(self, step: int, metrics: Any, progress: Progress, rate: float) -> None:
        values = {f"{name}/{key}": value for name, found in metrics.items() for key, value in found.items()}
        self.metrics.train(step, values)
        speed = rate * self.features.batch_tokens
        self.metrics.throughput(step, {"tokens_per_second": speed})
        losses = [float(found["loss"]) for found in metrics.values()]
        progress.update(step, loss=sum(losses) / len(losses), tokens_per_second=speed)

    def _evaluate(self, states: States, step: int) -> None:
        self.measured = self.evaluation(states)
        for name, measures in self.measured.items():
            self.metrics.evaluation(step, measures.scalars(), name)

    def _save(self, states: States, step: int) -> int:
        self.metrics.flush()
        folders.save(self.folder, states, step)
        return step

    def _write(self, states: States) -> None:
        """Writes the autoencoders, the densities and the page."""
        source = folders.load_source(self.folder)
        for option in self.features.autoencoders:
            params = jax.device_get(folded(option, states[option.name]))
            sites = option.sites(self.run.experiment.model.num_layers)
            context = self.run.experiment.data.sequence_length
            write_autoencoder(self.folder / "autoencoders" / option.name, option, params, sites, source, context)
        if self.measured:
            densities: dict[str, Any] = {name: m.density_M for name, m in self.measured.items()}
            np.savez(self.folder / "densities.npz", **densities)
        result_of(self.folder).write(self.folder)


def _outcome(step: int, total: int, last: int, requested: str | None) -> Outcome:
    if step >= total:
        return Outcome("finished", step)
    if requested is None:
        return Outcome("stopped", step, f"--hard_stop={last}")
    return Outcome("interrupted", step, f"{requested}; the same command continues from step {step}")
