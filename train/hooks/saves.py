"""Checkpoints during training: every n steps, at a new best validation loss, and at the end of a session."""

from train.checkpoints.store import CheckpointStore
from train.hooks.interface import Hook, Moment, Session


class Saves(Hook):
    """Saves the state in the background; the last of the hooks.

    Attributes:
      saved: the step of the last save, at first the step at which the session starts.
    """

    def __init__(self, session: Session, store: CheckpointStore, step: int) -> None:
        """Args: the session, its open store, the step at which it starts."""
        option = session.experiment.checkpoints
        self.every, self._best_too = option.every, option.keep_best > 0
        self._session, self._store, self.saved = session, store, step

    def due(self, moment: Moment) -> bool:
        """Whether a save is due, or the model is the best so far and `keep_best` is above 0."""
        return super().due(moment) or (moment.best and self._best_too)

    def __call__(self, moment: Moment) -> None:
        """See `Hook`. The metric files are flushed first, since a resumed run rewinds them to this step."""
        self._session.metrics.flush()
        self._store.save(self._session.experiment, moment.state, moment.step, moment.validation)
        self.saved = moment.step
