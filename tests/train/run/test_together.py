"""What several processes must have in common: the command, and a folder of a file system."""

import pathlib

import pytest

from model.errors import UserError
from tests.train.process.memory_store import groups
from train.files.paths import literal_path
from train.process import hosts
from train.run import together


def test_a_store_is_refused_by_name():
    together.refuse_store(pathlib.Path("runs/a"))
    with pytest.raises(UserError, match="--run=gs://bucket/a: several processes write a run into a folder of a file"):
        together.refuse_store(literal_path("gs://bucket/a"))


@pytest.fixture
def second(monkeypatch):
    """This process as number 1 of two, and the store, in which the test plays process 0."""
    group = groups(2, started=[])[1]
    monkeypatch.setattr(hosts, "_group", group)
    return group.store


def test_another_experiment(tiny_experiment, second):
    second.put("cairn/gather/0/all", '["a", "b"]')
    with pytest.raises(UserError, match="process 1 on host1 has another experiment than process 0 on host0; give all"):
        together.require_same_command(tiny_experiment(), None)
    given = second.values["cairn/gather/0/1"]
    second.put("cairn/gather/1/all", '["a", "a"]')
    together.require_same_command(tiny_experiment(), 5)
    assert second.values["cairn/gather/1/1"] != given  # --hard_stop counts


def test_a_folder_that_is_not_shared(second, tmp_path, monkeypatch):
    monkeypatch.setattr(together, "SHARED_SECONDS", 0.1)
    second.put("cairn/from_writer/0", '{"value": "digest"}')
    second.put("cairn/gather/1/all", '["digest", "No such file or directory"]')
    with pytest.raises(UserError, match="process 1 on host1 has another content of .*on a file system that all hosts"):
        together.require_shared_folder(tmp_path)
    assert second.values["cairn/gather/1/1"] == "No such file or directory"


def test_alone_nothing_is_checked(tmp_path):
    together.require_shared_folder(tmp_path / "nothing")
    assert together.silent("a line") is None
