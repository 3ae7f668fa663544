"""Jobs on a Ray cluster, with a stand-in for Ray; `python -m tests.clusters.ray_cluster` runs a real one."""

import functools
import random
import sys
import types

import pytest

from model.errors import UserError
from train.data import Bytes, Data, prepare
from train.data.prepare import ray_workers


class Cluster(types.ModuleType):
    """Three cores in this process: tasks run when their results are fetched, and end in another order."""

    def __init__(self, cores=3, answers=True):
        super().__init__("ray")
        self.cores, self.answers = cores, answers
        self.done, self.connected, self.most = [], [], 0
        self.draw = random.Random(0)

    def init(self, **options):
        if not self.answers:
            raise ConnectionError("ray://nowhere does not answer\nand more")
        self.connected.append(options)

    def shutdown(self):
        self.connected.pop()

    def cluster_resources(self):
        return {"CPU": float(self.cores)}

    def put(self, value):
        return value

    def remote(self, **options):
        assert options["max_retries"] == -1, "a job of a lost machine runs again"
        return lambda function: types.SimpleNamespace(remote=lambda *arguments: functools.partial(function, *arguments))

    def wait(self, references, num_returns):
        self.most = max(self.most, len(references))
        ready = [self.draw.choice(references)]
        return ready, [one for one in references if one not in ready]

    def get(self, references):
        self.done += [reference.args[-1]["name"] for reference in references]
        return [reference() for reference in references]


@pytest.fixture
def cluster(monkeypatch):
    cluster = Cluster()
    monkeypatch.setitem(sys.modules, "ray", cluster)
    return cluster


@pytest.fixture
def texts(tmp_path, small_shards):
    for n in range(6):
        (tmp_path / f"{n}.txt").write_text(f"text {n} " * 400)
    return Data(path=f"{tmp_path}/*.txt", tokenizer=Bytes(), validation=None)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def test_the_same_bytes_as_on_one_machine(cluster, texts, tmp_path):
    here = files(prepare(texts, tmp_path / "here", workers=1))
    there = files(prepare(texts, tmp_path / "there", engine="ray"))
    assert here == there
    assert cluster.most == 3
    assert cluster.done != sorted(cluster.done), "jobs ended in another order than that of the shards"
    assert not cluster.connected, "the cluster was left"


def test_a_second_command_runs_only_the_jobs_that_are_left(cluster, texts, tmp_path):
    class LostError(Exception):
        pass

    real = cluster.get

    def fails_at_the_third(references):
        if len(cluster.done) == 2:
            raise LostError
        return real(references)

    cluster.get = fails_at_the_third
    with pytest.raises(LostError):
        prepare(texts, tmp_path / "d", engine="ray")
    first, cluster.get = set(cluster.done), real
    cluster.done.clear()
    prepare(texts, tmp_path / "d", engine="ray")
    assert len(first) == 2
    assert first.isdisjoint(cluster.done)
    assert files(tmp_path / "d") == files(prepare(texts, tmp_path / "whole", workers=1))


def test_mistakes_are_named(cluster, texts, tmp_path, monkeypatch):
    (tmp_path / "7.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"7\.txt"):
        prepare(texts, tmp_path / "a", engine="ray")
    (tmp_path / "7.txt").unlink()
    cluster.answers = False
    monkeypatch.setenv("RAY_ADDRESS", "ray://nowhere")
    with pytest.raises(
        UserError, match=r"no Ray cluster answers \(RAY_ADDRESS is ray://nowhere\): ray://nowhere does not"
    ):
        prepare(texts, tmp_path / "c", engine="ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"Ray is not installed: pip install -e '\.\[ray\]'"):
        prepare(texts, tmp_path / "e", engine="ray")
    assert list(ray_workers.run_jobs({}, [], None)) == []
