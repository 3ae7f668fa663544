"""Which checkpoints stay: the newest, the best, and one every so many steps."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from orbax.checkpoint import checkpoint_managers

from train.experiment import Checkpoints


@dataclasses.dataclass
class LowestLosses:
    """Orbax's question which checkpoints to keep, answered: the `n` with the lowest validation loss."""

    n: int
    losses: dict[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Whether each checkpoint stays; one without a loss has no claim."""
        known = [c.step for c in checkpoints if c.step in self.losses]
        best = sorted(known, key=self.losses.__getitem__)[: self.n]
        return [c.step in best for c in checkpoints]


def kept(options: Checkpoints, losses: dict[int, float]) -> checkpoint_managers.PreservationPolicy:
    """Orbax's policy for the options; `losses` may still grow, and is read at every save."""
    keep: list[Any] = [checkpoint_managers.LatestN(options.keep_last), LowestLosses(options.keep_best, losses)]
    if options.keep_every is not None:
        keep.append(checkpoint_managers.EveryNSteps(options.keep_every))
    return checkpoint_managers.AnyPreservationPolicy(keep)
