"""The log: the scalars of all steps, fetched from the devices when a line is due, one step late.

Nothing is fetched in between, so the host runs up to `IN_FLIGHT` steps ahead of the devices. The scalars of steps
without a line wait on the devices and are fetched together with those of the next line, so totals are exact. At most
`guard.max_consecutive` steps wait, so a run that skips that many in a row ends before it makes as many again.
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from model.errors import UserError
from train.data.interface import TrainingBatches
from train.hooks.interface import Hook, Session
from train.run.clock import PROCESS_START, Clock
from train.run.time_spent import TimeSpent
from train.terminal.progress import Progress

# The largest number of dispatched steps that have not ended. More would delay a stop and not keep a device busier.
IN_FLIGHT = 3


class _Dispatched(NamedTuple):
    """A dispatched step: its number, its scalars, and a function that waits for its end and returns the time."""

    step: int
    scalars: dict[str, jax.Array]
    wait_for_end: Callable[[], float]


class Log:
    """Writes a line of metrics.jsonl and a line of throughput.jsonl every n steps.

    Attributes:
      tokens: the number of counted targets in all fetched steps.
    """

    def __init__(self, session: Session, batches: TrainingBatches, clock: Clock, spent: TimeSpent) -> None:
        """Args: the session, its batches, its clock, its time by activity."""
        experiment = session.experiment
        self.every, self._last = experiment.logging.every, experiment.training.num_steps
        self._max_skipped = experiment.training.guard.max_consecutive
        self._data = experiment.data
        self._session, self._batches, self._clock, self._spent = session, batches, clock, spent
        self._progress: Progress | None = None
        self._hooks: Sequence[Hook] = ()
        self._waiting: collections.deque[_Dispatched] = collections.deque()
        self.tokens = 0

    def resumed(self, step: int, lines: list[dict[str, Any]], tokens: int | None = None) -> None:
        """Counts the targets of the steps so far: the total of the last line, plus those of the batches after it.

        `tokens` is the total where the batches alone do not tell it.
        """
        if tokens is not None:
            self.tokens = tokens
            return
        logged = [line for line in lines if line.get("kind") == "train" and "padding" in line]
        last, tokens = (logged[-1]["step"], logged[-1]["tokens"]) if logged else (0, 0)
        self.tokens = tokens + sum(map(self._batches.num_targets, range(last, step)))

    def start(self, step: int, progress: Progress, hooks: Sequence[Hook] = ()) -> None:
        """Starts after a step; `progress` shows the steps that end, `hooks` get their scalars."""
        self._progress, self._hooks = progress, hooks
        self._clock.start(step)

    def dispatched(self, step: int, scalars: dict[str, jax.Array]) -> None:
        """Takes a step that was just dispatched; fetches the steps before it if a line is due."""
        before = len(self._waiting)
        numbers = {name: x for name, x in scalars.items() if not isinstance(x, dict)}  # the rest is for hooks
        self._waiting.append(_Dispatched(step, numbers, self._clock.watch(scalars)))
        if before and (self._has_line(step - 1) or self._clock.compiling or before >= self._max_skipped):
            self._fetch(before)
        if len(self._waiting) > IN_FLIGHT:
            behind = self._waiting[-1 - IN_FLIGHT]
            behind.wait_for_end()
            assert self._progress is not None
            self._progress.update(behind.step)

    def catch_up(self) -> None:
        """Fetches all waiting steps; returns when the last one has ended."""
        self._fetch(len(self._waiting))

    def time(self, step: int) -> None:
        """Writes the timing of the steps up to this one, unless it is written already."""
        if step == self._clock.step:
            return
        timing = self._clock.read()
        self._session.metrics.throughput(step, timing | {"tokens": self.tokens})
        self.record_time_spent(step)
        if not timing["includes_compilation"]:
            assert self._progress is not None
            self._progress.update(step, tokens_per_second=timing["tokens_per_second"], mfu=timing["mfu"])

    def record_time_spent(self, step: int) -> None:
        """Writes the time of the session so far, by activity."""
        clock = self._clock
        self._spent.write(
            step,
            waiting=clock.waiting_seconds,
            dispatch=clock.dispatch_seconds,
            first_step=clock.first_step_seconds,
        )

    def _has_line(self, step: int) -> bool:
        return step == self._last or step % self.every == 0

    def _fetch(self, count: int) -> None:
        """Fetches the first `count` waiting steps in one transfer, and takes them in turn."""
        if not count:
            return
        steps = [self._waiting.popleft() for _ in range(count)]
        for step, scalars in zip(steps, jax.device_get([step.scalars for step in steps]), strict=True):
            self._take(step.step, scalars, step.wait_for_end())

    def _take(self, step: int, scalars: dict[str, Any], end_time: float) -> None:
        """Counts a step and writes its line if one is due. Raises UserError after too many skipped steps in a row."""
        tokens, consecutive = int(scalars.pop("tokens")), int(scalars.pop("consecutive"))
        if step == 1:
            self._session.say(f"first step {end_time - PROCESS_START:.1f} s after the command")
        if consecutive >= self._max_skipped:
            raise UserError(
                f"steps {step - consecutive + 1} to {step} were all skipped: loss or gradient norm not finite, or an "
                f"outlier (last loss {scalars['loss']}, gradient norm {scalars['grad_norm']}). Lower "
                "schedule.peak or training.clip_norm, or look at these batches with launch.data show"
            )
        self._clock.record_end(step, end_time, tokens)
        self.tokens += tokens
        assert self._progress is not None
        self._progress.update(step, loss=float(scalars["loss"]))
        if self._has_line(step):
            rows = self._data.batch_size_at(step - 1) * self._data.texts_of_row
            padding = 1 - tokens / (rows * self._data.sequence_length)
            self._session.metrics.train(step, scalars | {"tokens": self.tokens, "padding": padding})
        for hook in self._hooks:
            hook.fetched(step, scalars, self._has_line(step))
        if self._has_line(step) or self._clock.compiling:
            self.time(step)
