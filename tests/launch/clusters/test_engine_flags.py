"""The flags of engines, defined for engines of a test."""

import dataclasses
from typing import ClassVar

import pytest
from absl import flags

from launch.clusters.engine_flags import define_engine_flags, engine_from_flags, require_engine
from launch.clusters.job import option
from model.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    NAME: ClassVar[str] = "train"
    test_wagons: int = option(1, "The wagons.")
    test_line: str | None = option(None, "The line.")
    slices: int = option(1, "Of bread.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ship:
    NAME: ClassVar[str] = "ship"
    test_line: str | None = option(None, "The company.")
    test_ports: tuple[str, ...] = option((), "A port; may be repeated.")
    test_sails: bool = option(False, "Whether it has sails.")
    test_hidden: int = option(0, "No flag.")


ENGINES = {"train": Train, "ship": Ship}


@pytest.fixture
def parsed():
    """A function that defines the flags, reads these words, and returns the holders."""
    known = set(flags.FLAGS)

    def parse(*words):
        defined = define_engine_flags(ENGINES, without=("test_hidden",))
        for word in words:
            name, _, value = word.partition("=")
            flags.FLAGS[name].parse([value] if name == "test_ports" else value)
        return defined

    yield parse
    for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)


def test_an_engine_has_its_flags(parsed):
    defined = parsed("test_line=blue", "test_ports=Bergen", "test_sails=true")
    assert set(defined) == {"test_wagons", "test_line", "slices", "test_ports", "test_sails"}
    assert flags.FLAGS["test_line"].help == "train: The line. ship: The company."
    found = engine_from_flags(ENGINES, "ship", defined, test_hidden=3)
    assert found == Ship(test_line="blue", test_ports=("Bergen",), test_sails=True, test_hidden=3)


def test_flags_of_another_engine_and_zeros(parsed):
    defined = parsed("slices=0")
    with pytest.raises(UserError, match="--slices has no effect with --to=ship; it belongs to --to=train"):
        engine_from_flags(ENGINES, "ship", defined)
    with pytest.raises(UserError, match="--slices=0: expected a whole number from 1"):
        engine_from_flags(ENGINES, "train", defined)


def test_an_engine_that_is_none():
    require_engine(ENGINES, "ship")
    with pytest.raises(UserError, match="--to=shop is no engine; did you mean 'ship'?"):
        require_engine(ENGINES, "shop")
