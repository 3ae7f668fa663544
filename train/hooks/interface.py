"""What a hook is: a small object that is due every so many steps, and what it is told then.

    class Sharpness(Hook):
        def __init__(self, session):
            self.every, self.metrics = 100, session.metrics

        def __call__(self, moment):
            self.metrics.line("sharpness", moment.step, {"largest": ...})

    train(experiment, run, hooks=[Sharpness])

The loop calls the hooks that are due one after another, in the order of its list, saves last. What a hook writes is on
the disk before the checkpoint of its step is: a run that goes on from that checkpoint does not call it again for that
step, and one that goes on from an earlier one takes the lines back and calls it anew. So a hook is called exactly once
for each step in the files, if it depends on nothing but the moment.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from train.data.shards.dataset import Dataset
from train.experiment import Experiment
from train.parallel.table import MeshLayout
from train.run.metrics import MetricsWriter
from train.state import TrainState

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """What stays the same for one start of a run.

    Attributes:
      experiment: the run's options.
      folder: the run folder.
      dataset: what it trains on.
      mesh, layout: the devices, and how activations lie on them.
      metrics: the files that lines go to.
      say: prints a line that the user should see.
    """

    experiment: Experiment
    folder: pathlib.Path
    dataset: Dataset
    mesh: jax.sharding.Mesh
    layout: MeshLayout
    metrics: MetricsWriter
    say: Say


@dataclasses.dataclass(kw_only=True)
class Moment:
    """After a step, and before the next one.

    Attributes:
      step: the updates made so far.
      last: whether it is the last of the run, at which everything is due.
      state: after the step; the next step takes its memory, so that no hook may keep it.
      scalars: what the step measured, on the devices.
      validation: the loss of the validation split, once it was measured at this moment.
      best: whether that is the lowest so far.
    """

    step: int
    last: bool
    state: TrainState
    scalars: dict[str, Any]
    validation: float | None = None
    best: bool = False


class Hook:
    """Something that is done every `every` steps and at the last one."""

    every: int

    def due(self, moment: Moment) -> bool:
        """Whether it is done at a moment."""
        return moment.last or moment.step % self.every == 0

    def __call__(self, moment: Moment) -> None:
        """Does it. The step has ended, its line is written, and the clock does not run."""
        raise NotImplementedError

    def resumed(self, step: int, lines: list[dict[str, Any]]) -> None:
        """Told, when a run goes on from a checkpoint, its step and the lines of metrics.jsonl up to it."""


HookMaker = Callable[[Session], Hook]
