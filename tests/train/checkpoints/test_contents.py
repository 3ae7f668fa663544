"""Whether a checkpoint belongs to a model, from its note alone; tests/train/checkpoints/test_store.py loads them."""

import pathlib

import pytest

from model.errors import UserError
from model.options.json import to_json
from model.parameters.names import flatten
from tests.train.states import abstract_state_of
from train.checkpoints.contents import check_same_model, names_in, other_version
from train.earlier import CHECKPOINT_FORMAT

FOLDER = pathlib.Path("runs/a/checkpoints/20")


def test_options_that_came_since_stand_at_their_defaults(experiment):
    stored = to_json(experiment)
    assert stored["model"].pop("layer_scale") is None
    assert stored["model"]["initialization"].pop("scale_residual") is True
    stored["sharding"] = {"type": "Sharding", "embed": ["fsdp"]}  # a table of one vocabulary, as runs before had
    check_same_model({"experiment": stored}, experiment, FOLDER)
    stored["model"]["initialization"]["scale_residual"] = False
    with pytest.raises(UserError, match="model.initialization.scale_residual: False -> True"):
        check_same_model({"experiment": stored}, experiment, FOLDER)


def test_names_of_all_arrays(experiment):
    state = abstract_state_of(experiment)
    note = {"format": CHECKPOINT_FORMAT, "checksums": dict.fromkeys(flatten(state), 0)}
    assert names_in(note, state, FOLDER) == {name: name for name in flatten(state)}
    step = note["checksums"].pop("step")
    with pytest.raises(UserError, match="checkpoint 20 in runs/a/checkpoints was written by another .*it has no step"):
        names_in(note, state, FOLDER)
    note["checksums"] |= {"step": step, "stride": 0}
    with pytest.raises(UserError, match="it has stride, which is no part of the state"):
        names_in(note, state, FOLDER)


def test_an_optimizer_of_an_earlier_version_cannot_continue(experiment):
    state = abstract_state_of(experiment)
    note = {"format": CHECKPOINT_FORMAT - 1, "checksums": dict.fromkeys(flatten(state), 0) | {"opt_state.other": 0}}
    with pytest.raises(UserError, match="treated some parameters differently .*--set training.init_from=runs/a$"):
        names_in(note, state, FOLDER)


def test_the_error_says_what_to_do():
    assert "environment.json in the run folder names" in str(other_version(FOLDER, "its format is 99"))
