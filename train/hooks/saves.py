"""Checkpoints during a training: every so many steps, where the model was never better, and where a session ends."""

from train.checkpoints.store import CheckpointStore
from train.hooks.interface import Hook, Moment, Session


class Saves(Hook):
    """Saves the state in the background; the last of the hooks.

    Attributes:
      saved: the step of the last save, or the one that the session began at.
    """

    def __init__(self, session: Session, store: CheckpointStore, step: int) -> None:
        """Args: the session, its open store, the step of the state that it begins with."""
        option = session.experiment.checkpoints
        self.every, self._best_too = option.every, option.keep_best > 0
        self._session, self._store, self.saved = session, store, step

    def due(self, moment: Moment) -> bool:
        """Whether a save is due, or this is the best model so far and the best ones are kept."""
        return super().due(moment) or (moment.best and self._best_too)

    def __call__(self, moment: Moment) -> None:
        """See `Hook`. The metric files reach the disk first, since a resumed run rewinds them to here."""
        self._session.metrics.flush()
        self._store.save(self._session.experiment, moment.state, moment.step, moment.validation)
        self.saved = moment.step
