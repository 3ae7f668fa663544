"""Decides which checkpoints are kept: the newest, the best, one every `keep_every` steps, those before given steps."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from orbax.checkpoint import checkpoint_managers

from train.experiment import Checkpoints


@dataclasses.dataclass
class LowestLosses:
    """An orbax preservation policy that keeps the `n` checkpoints with the lowest validation loss."""

    n: int
    losses: dict[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Whether to keep each checkpoint; a checkpoint without a loss is not kept by this policy."""
        known = [c.step for c in checkpoints if c.step in self.losses]
        best = sorted(known, key=self.losses.__getitem__)[: self.n]
        return [c.step in best for c in checkpoints]


@dataclasses.dataclass
class LastBefore:
    """An orbax preservation policy that keeps, for each of some steps, the last checkpoint from before the step."""

    steps: Sequence[int]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Whether to keep each checkpoint."""
        kept = {max((c.step for c in checkpoints if c.step < step), default=None) for step in self.steps}
        return [c.step in kept for c in checkpoints]


def preservation_policy(
    options: Checkpoints, losses: dict[int, float], replayed: Sequence[int] = ()
) -> checkpoint_managers.PreservationPolicy:
    """The orbax preservation policy for the options.

    Args:
      options: the run's options.
      losses: the validation loss of each checkpoint that has one.
      replayed: steps whose last checkpoint before them is kept.

    `losses` and `replayed` may change later, and are read at every save.
    """
    policies: list[Any] = [
        checkpoint_managers.LatestN(options.keep_last),
        LowestLosses(options.keep_best, losses),
        LastBefore(replayed),
    ]
    if options.keep_every is not None:
        policies.append(checkpoint_managers.EveryNSteps(options.keep_every))
    return checkpoint_managers.AnyPreservationPolicy(policies)
