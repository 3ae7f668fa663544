"""A run with spikes, for tests of forensics and of comparisons."""

import pytest

from train.loop import train
from train.optimizers.spikes import Spikes

# So many of the noisy steps of a tiny run are spikes.
SENSITIVE = Spikes(deviations=1.0, window=3, keep=2, states=1)


@pytest.fixture(scope="session")
def spiky_run(tiny_experiment, tmp_path_factory):
    """A run like `tiny_run` with spikes; its checkpoints are made every 3 steps, and the last one is kept."""
    run = tmp_path_factory.mktemp("spikes") / "run"
    experiment = tiny_experiment(
        spikes=SENSITIVE,
        samples__prompts=(),
        checkpoints__every=3,
        checkpoints__keep_last=1,
        checkpoints__keep_best=0,
    )
    train(experiment, run, say=lambda line: None)
    return run
