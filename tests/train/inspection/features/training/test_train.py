"""The instrument `features`: a config file, its overrides, and a folder that goes on."""

import pytest

from model.errors import UserError
from train.inspection.features.training.train import inspect


def test_a_finished_training_is_read_and_nothing_is_trained(copied):
    """The options of the folder, given again, leave every file of numbers as it is."""
    config = copied.folder.parent / "sae.py"
    config.write_text("from tests.train.inspection.features.conftest import features_of\nfeatures = features_of()\n")
    before = (copied.folder / "metrics.jsonl").read_bytes()
    result = inspect(copied.run, folder=copied.folder, config=str(config))
    assert (copied.folder / "metrics.jsonl").read_bytes() == before
    assert result.lines[0].startswith("top explained variance")
    with pytest.raises(UserError, match="num_steps: 12 -> 13"):
        inspect(copied.run, folder=copied.folder, config=str(config), set=["num_steps=13"])
