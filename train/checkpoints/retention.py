"""Decides which checkpoints are kept: the newest, the best, and one every `keep_every` steps."""

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


def preservation_policy(options: Checkpoints, losses: dict[int, float]) -> checkpoint_managers.PreservationPolicy:
    """The orbax preservation policy for the options; `losses` may still grow, and is read at every save."""
    policies: list[Any] = [checkpoint_managers.LatestN(options.keep_last), LowestLosses(options.keep_best, losses)]
    if options.keep_every is not None:
        policies.append(checkpoint_managers.EveryNSteps(options.keep_every))
    return checkpoint_managers.AnyPreservationPolicy(policies)
