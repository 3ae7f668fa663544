"""A hook: a small object that is due every n steps, and the information about a step that it is given.

    class Largest(Hook):
        def __init__(self, session):
            self.every, self.metrics = 100, session.metrics

        def __call__(self, info):
            largest = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(info.state.params))
            self.metrics.line("largest", info.step, {"parameter": largest})

    train(experiment, run, hooks=[Largest])

The loop calls the due hooks one after another, in the order of its list; saves come last. The lines of a hook reach the
disk before the checkpoint of their step. A run that continues from that checkpoint does not call the hook for that step
again; a run that continues from an earlier checkpoint removes the lines and calls it again. So the files hold the
result of exactly one call per due step, if the hook depends on this information alone.
"""

import dataclasses
import numbers
import pathlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax

from model.errors import UserError
from train.data.shards.dataset import Dataset
from train.experiment import Experiment
from train.hooks.programs import ALONE, Programs
from train.parallel.table import MeshLayout
from train.run.metrics import MetricsWriter
from train.state import Held, HeldState, TrainState

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """The objects that hooks use in one session of a run.

    Attributes:
      experiment: the run's options.
      folder: the run folder.
      dataset: the training dataset.
      mesh, layout: the devices, and the sharding of activations over them.
      metrics: writes lines to the files of the run.
      say: prints a line for the user.
      alive: tells the watchdog of progress; for a hook that works for longer than it allows.
      programs: makes the compiled programs of the run.
      spent_on: `with session.spent_on("rollout"):` counts the time inside as that activity (train/run/time_spent.py).
    """

    experiment: Experiment
    folder: pathlib.Path
    dataset: Dataset
    mesh: jax.sharding.Mesh
    layout: MeshLayout
    metrics: MetricsWriter
    say: Say
    alive: Callable[[], None] = lambda: None
    programs: Programs = ALONE
    spent_on: Callable[[str], AbstractContextManager[None]] = lambda activity: nullcontext()


@dataclasses.dataclass(kw_only=True)
class StepInfo:
    """Information about a step that has ended, for hooks.

    Attributes:
      step: the number of updates so far.
      last: whether this is the last step of the run, at which every hook is due.
      held: the state after the step, as the programs of the run take it (train/hooks/programs.py).
      scalars: the metrics of the step, on the devices.
      validation: the loss of the validation split, if a hook measured it at this step.
      best: whether that loss is the lowest so far.
    """

    step: int
    last: bool
    held: Held
    scalars: dict[str, Any]
    validation: float | None = None
    best: bool = False

    @property
    def state(self) -> TrainState:
        """The state after the step. The next step reuses its memory, so a hook must not keep it.

        Where several runs train in one program it is a copy, made at each call.
        """
        return self.held.take() if isinstance(self.held, HeldState) else self.held


class Hook:
    """An action every `every` steps and at the last one.

    Attributes:
      every: the number of steps.
      compiles: whether its first call compiles programs, for which the watchdog allows more time.
      activity: the activity that its time counts as (train/run/time_spent.py).
    """

    every: int
    compiles = False
    activity = "other"

    def due(self, info: StepInfo) -> bool:
        """Whether the hook is called after a step."""
        return info.last or info.step % self.every == 0

    def __call__(self, info: StepInfo) -> None:
        """Acts. The step has ended, its line is written, and the clock is paused."""
        raise NotImplementedError

    def begin(self, step: int) -> None:
        """Called once, before the first step of a session, which continues from `step`."""

    def fetched(self, step: int, scalars: Mapping[str, Any], has_line: bool) -> None:
        """Called for every step in order when its scalars have arrived on the host, a step or more after its end.

        All steps up to a due step arrive before hooks are called for it, and before its checkpoint is written.

        Args:
          step: the number of updates so far.
          scalars: the metrics of the step that metrics.jsonl gets.
          has_line: whether the step has a line there.
        """

    def close(self) -> None:
        """Called once, when the session ends, after an error too."""

    def resumed(self, step: int, lines: list[dict[str, Any]]) -> None:
        """Takes the step of the checkpoint that a run continues from, and the lines of metrics.jsonl up to it."""


HookMaker = Callable[[Session], Hook]


def make_hook(maker: HookMaker, session: Session) -> Hook:
    """The hook that a maker returns. Raises UserError for a hook without a period."""
    hook = maker(session)
    every = getattr(hook, "every", None)
    if type(hook).due is Hook.due and not (isinstance(every, numbers.Integral) and int(every) >= 1):
        raise UserError(
            f"the hook {type(hook).__name__}: `every` must be a whole number of steps, at least 1, got {every!r}; set "
            "it in __init__, or define `due`"
        )
    return hook
