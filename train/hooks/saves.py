"""Checkpoints during training: every n steps, at a new best validation loss, and at the end of a session."""

from collections.abc import Callable, Mapping

import numpy as np

from model.errors import UserError
from train.checkpoints.store import CheckpointStore
from train.hooks.interface import Hook, Session, StepInfo


class SavesHook(Hook):
    """Saves the state in the background; the last of the hooks.

    Attributes:
      saved: the step of the last save, at first the step at which the session starts.
    """

    activity = "saving"

    def __init__(
        self,
        session: Session,
        store: CheckpointStore,
        step: int,
        carried: Callable[[], Mapping[str, np.ndarray]] = dict,
    ) -> None:
        """Args: the session, its open store, the step at which it starts, a function for arrays to save too."""
        option = session.experiment.checkpoints
        self.every, self._on_best = option.every, option.keep_best > 0
        self._session, self._store, self.saved = session, store, step
        self._carried = carried

    def due(self, info: StepInfo) -> bool:
        """Whether a save is due, or the model is the best so far and `keep_best` is above 0."""
        return super().due(info) or (info.best and self._on_best)

    def __call__(self, info: StepInfo) -> None:
        """See `Hook`. The metric files are flushed first, since a resumed run rewinds them to this step."""
        self._session.metrics.flush()
        self._store.save(self._session.experiment, info.state, info.step, info.validation, self._carried())
        self.saved = info.step


def require_saved(store: CheckpointStore, step: int) -> None:
    """Raises UserError when a session ends at a step whose checkpoint could not be written."""
    if step and step not in (steps := store.steps()):
        raise UserError(
            f"the checkpoint of step {step}, where this session ends, could not be written to {store.folder}: "
            f"{store.failure}; make room or fix that, and give the same command again: it continues from step "
            f"{max(steps, default=0)}"
        )
