"""The instrument `features`: trains the autoencoders of a config on a run."""

import pathlib
from collections.abc import Sequence

from train.files.remote import print_to_stderr
from train.inspection.features.training.loop import train_features
from train.inspection.features.training.report import result_of
from train.inspection.features.training.settings import from_file
from train.inspection.result import Result
from train.run.loading import LoadedRun


def inspect(
    run: LoadedRun,
    *,
    folder: pathlib.Path,
    config: str,
    set: Sequence[str] = (),
    hard_stop: int | None = None,
) -> Result:
    """Trains, or goes on with a training.

    Args:
      run: the model.
      folder: the folder of the training.
      config: the config file, which assigns `features = Features(...)`.
      set: overrides of its options, such as "num_steps=100".
      hard_stop: the step to end at without a change of the schedule.
    """
    train_features(run, from_file(config, set), folder, print_to_stderr, hard_stop=hard_stop)
    return result_of(folder)
