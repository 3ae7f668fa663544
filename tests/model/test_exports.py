"""Packages export the names of options."""

import importlib

import pytest

ROOMS = [
    "model.attention",
    "model.feedforward",
    "model.options",
    "model.parameters",
    "model.positions",
    "model.recurrent",
    "model.taps",
    "train.optimizers",
    "train.hooks",
]


@pytest.mark.parametrize("room", [*ROOMS, "train.data.tokenizers"])
def test_every_name_of_a_room_is_that_of_its_module(room):
    package = importlib.import_module(room)
    for name in package.__all__:
        found = getattr(package, name)
        assert found.__name__ == name
        assert found.__module__.startswith(f"{room}.")
    with pytest.raises(AttributeError, match=f"module '{room}' has no attribute 'Nothing'"):
        _ = package.Nothing
