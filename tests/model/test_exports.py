"""Packages export the names of options, and their modules have no import cycles."""

import importlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
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
ALONE = """
import importlib, pathlib, sys
import flax.nnx, jax, optax, orbax.checkpoint
own = ("model", "train")
for path in (path for room in own for path in sorted(pathlib.Path(room).rglob("*.py"))):
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    for known in [known for known in sys.modules if known.split(".")[0] in own]:
        del sys.modules[known]
    importlib.import_module(name)
"""


@pytest.mark.parametrize("room", [*ROOMS, "train.data.tokenizers"])
def test_every_name_of_a_room_is_that_of_its_module(room):
    package = importlib.import_module(room)
    for name in package.__all__:
        found = getattr(package, name)
        assert found.__name__ == name
        assert found.__module__.startswith(f"{room}.")
    with pytest.raises(AttributeError, match=f"module '{room}' has no attribute 'Nothing'"):
        _ = package.Nothing


def test_every_module_can_be_imported_first():
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
