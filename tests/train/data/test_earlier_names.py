"""Configs that earlier versions wrote, with `WholeFiles` for `HeldOutDocuments` and `shift` for `random_offset`."""

import json
import re

import pytest

from model.errors import UserError
from model.options.json import from_json, to_json
from train import experiment as experiments
from train.config_file import from_file
from train.data.config import Concatenate, HeldOutDocuments
from train.earlier import current_config
from train.experiment import Experiment


def test_earlier_names_are_read(tiny_experiment, tmp_path):
    experiment = tiny_experiment(
        data__validation=HeldOutDocuments(fraction=0.2), data__packing=Concatenate(random_offset=False)
    )
    stored = to_json(experiment)
    stored["data"]["validation"]["type"] = "WholeFiles"
    stored["data"]["packing"]["shift"] = stored["data"]["packing"].pop("random_offset")
    assert from_json(Experiment, current_config(stored)) == experiment
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert experiments.load(tmp_path) == experiment


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("data.validation=WholeFiles(fraction=0.2)", "WholeFiles is HeldOutDocuments now"),
        ("data.packing.shift=False", "Concatenate.shift is data.packing.random_offset now"),
    ],
)
def test_earlier_names_of_data_are_answered_with_those_of_today(
    assignment, words, tiny_experiment, write_config, tmp_path
):
    path = write_config(tiny_experiment(data__packing=Concatenate()), tmp_path / "config.py")
    with pytest.raises(UserError, match="^" + re.escape(f"--set {assignment}: {words}")):
        from_file(str(path), [assignment])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("from train.data.config import WholeFiles\n", "it is HeldOutDocuments now"),
        ("from train.data import config\nconfig.WholeFiles()\n", "it is HeldOutDocuments now"),
        (
            "from train.data.config import Concatenate\nConcatenate(shift=True)\n",
            "it is data.packing.random_offset now",
        ),
    ],
)
def test_a_config_file_with_earlier_names_is_told_those_of_today(source, words, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(source)
    with pytest.raises(UserError, match=words):
        from_file(str(path))
