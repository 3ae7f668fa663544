"""The hooks that an experiment asks for, in the order in which the loop calls them."""

from collections.abc import Iterator

from train.data.interface import TrainingBatches
from train.hooks.evaluations import evaluation_hooks
from train.hooks.interface import Hook, Session
from train.hooks.samples import SamplesHook
from train.hooks.spikes import SpikesHook
from train.hooks.statistics import StatisticsHook


def hooks_of(session: Session, batches: TrainingBatches, replayed: list[int]) -> Iterator[Hook]:
    """Yields the hooks of `session.experiment`, without that of saves.

    Args:
      session: the session of the run.
      batches: the run's batches.
      replayed: the steps whose last checkpoint before them is kept, which the hook of spikes changes.
    """
    experiment = session.experiment
    yield from evaluation_hooks(session)
    if experiment.samples.prompts:
        yield SamplesHook(session)
    if experiment.statistics is not None:
        yield StatisticsHook(session, experiment.statistics.every)
    if experiment.spikes is not None:
        yield SpikesHook(session, experiment.spikes, batches, replayed)
