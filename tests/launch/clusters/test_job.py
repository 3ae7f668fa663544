"""What all engines share: the lines of a command, and the devices that a mesh needs."""

import shlex

import pytest

from launch.clusters.job import RESTART_STATUSES, Job, check_devices, lines_of
from model.errors import UserError


def test_a_long_command_has_a_flag_a_line():
    words = [
        "srun",
        "--wait=0",
        "python",
        "-m",
        "launch.train",
        *(f"--set=name.of.field{i}=it's {i}" for i in range(5)),
    ]
    text = lines_of(words)
    assert len(text.splitlines()) == 6
    assert text.startswith("srun --wait=0 python -m launch.train \\\n    '--set=")
    assert shlex.split(text.replace("\\\n", " ")) == words
    assert lines_of(words[:5]) == "srun --wait=0 python -m launch.train"


def test_the_command():
    job = Job(config="c.py", run="r", settings=("a=b c",), mesh="fsdp=8", more=("--hard_stop=1",), python="/x/python")
    words = ["/x/python", "-m", "launch.train", "--config=c.py", "--run=r", "--mesh=fsdp=8", "--set=a=b c"]
    assert job.command() == [*words, "--hard_stop=1"]


def test_statuses_that_restart():
    """Those of README; the engines' scripts are made from them."""
    assert RESTART_STATUSES[:3] == (69, 70, 75)
    assert not {0, 1, 2, 130} & set(RESTART_STATUSES)


def test_devices(tiny_experiment):
    check_devices(tiny_experiment(mesh__fsdp=4), None)
    check_devices(tiny_experiment(mesh__fsdp=4), 8)
    check_devices(tiny_experiment(mesh__fsdp=4, mesh__data=2), 8)
    for mesh in ({"mesh__fsdp": 3}, {"mesh__fsdp": 4, "mesh__data": 1}, {"mesh__fsdp": 16}):
        with pytest.raises(UserError, match="does not multiply to the 8 devices of this job"):
            check_devices(tiny_experiment(**mesh), 8)
