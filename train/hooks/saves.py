"""Checkpoints during training: every n steps, at a new best validation loss, and at the end of a session."""

from train.checkpoints.store import CheckpointStore
from train.hooks.interface import Hook, Session, StepInfo


class SavesHook(Hook):
    """Saves the state in the background; the last of the hooks.

    Attributes:
      saved: the step of the last save, at first the step at which the session starts.
    """

    activity = "saving"

    def __init__(self, session: Session, store: CheckpointStore, step: int) -> None:
        """Args: the session, its open store, the step at which it starts."""
        option = session.experiment.checkpoints
        self.every, self._on_best = option.every, option.keep_best > 0
        self._session, self._store, self.saved = session, store, step

    def due(self, info: StepInfo) -> bool:
        """Whether a save is due, or the model is the best so far and `keep_best` is above 0."""
        return super().due(info) or (info.best and self._on_best)

    def __call__(self, info: StepInfo) -> None:
        """See `Hook`. The metric files are flushed first, since a resumed run rewinds them to this step."""
        self._session.metrics.flush()
        self._store.save(self._session.experiment, info.state, info.step, info.validation)
        self.saved = info.step
