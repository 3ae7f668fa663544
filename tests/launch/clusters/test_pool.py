"""Several processes at once: places, order, statuses and signals, with a program in place of the training."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from launch.clusters.job import Job
from launch.clusters.pool import Place, Pool, gpus_here, places, starter, wait_for_earlier
from train.files.files import lock

# Ends with the status in --set=status=N; --set=wait waits for SIGTERM and ends with 75.
PROGRAM = """#!{python} -IS
import os, signal, sys, time
words = sys.argv[3:]
print("gpu", os.environ.get("CUDA_VISIBLE_DEVICES"), "cores", len(os.sched_getaffinity(0)), flush=True)
if "--set=wait" in words:
    signal.signal(signal.SIGTERM, (lambda *_: None) if "--set=stubborn" in words else (lambda *_: sys.exit(75)))
    print("ready", flush=True)
    time.sleep(30)
sys.exit(int(next(word for word in words if word.startswith("--set=status")).split("=")[2]))
"""


@pytest.fixture
def job(tmp_path):
    program = tmp_path / "program"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)

    def make(name, *settings):
        return Job(config="c.py", run=str(tmp_path / name), settings=settings, python=str(program))

    return make


@pytest.fixture
def start(tmp_path):
    return starter(dict(os.environ), lambda job: tmp_path / "logs" / f"{os.path.basename(job.run)}.txt")


def test_places():
    assert places(None, [], range(8)) == places(1, ["0", "1"], range(8)) == [Place()]
    assert places(2, [], range(5)) == [Place(cores=frozenset({0, 1})), Place(cores=frozenset({2, 3}))]
    assert places(3, [], range(2)) == [Place()] * 3
    assert [place.environment for place in places(None, ["2", "5"], range(8))] == [
        {"CUDA_VISIBLE_DEVICES": "2"},
        {"CUDA_VISIBLE_DEVICES": "5"},
    ]
    shared = places(4, ["2", "5"], range(8))
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in shared] == ["2", "5", "2", "5"]
    assert {place.environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] for place in shared} == {"0.45"}


def test_gpus_that_the_environment_names():
    assert gpus_here({"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "0"}) == []
    assert gpus_here({"CUDA_VISIBLE_DEVICES": "1, 3"}) == ["1", "3"]
    assert gpus_here({"CUDA_VISIBLE_DEVICES": ""}) == []


def test_statuses_and_output(job, start, tmp_path):
    pool = Pool([Place({"CUDA_VISIBLE_DEVICES": "6"}, frozenset({min(os.sched_getaffinity(0))}))], start)
    jobs = [job("a", "status=0"), job("b", "status=2"), job("c", "status=0")]
    assert pool.run(jobs) == {str(tmp_path / name): status for name, status in (("a", 0), ("b", 2), ("c", 0))}
    assert (tmp_path / "logs" / "b.txt").read_text() == "gpu 6 cores 1\n"


def test_a_run_in_use_is_waited_for(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    wait_for_earlier([run, tmp_path / "none"])
    held = lock(run / ".lock", wait=False)
    held.__enter__()
    thread = threading.Timer(0.3, lambda: held.__exit__(None, None, None))
    thread.start()
    wait_for_earlier([run])
    assert not thread.is_alive()
    assert capsys.readouterr().err == f"waiting for process {os.getpid()}, which has run and may be saving it\n"
    with lock(run / ".lock", wait=False):
        wait_for_earlier([run], seconds=0.05)  # the run itself says that it is in use


class Fake:
    """A process of `turns` polls."""

    def __init__(self, turns):
        self.turns = turns

    def poll(self):
        self.turns -= 1
        return None if self.turns > 0 else -9 if self.turns < -90 else 0

    def send_signal(self, number):
        self.turns = 0


def test_so_many_run_at_a_time_and_each_place_is_used_again(job, monkeypatch):
    monkeypatch.setattr("launch.clusters.pool._POLL_SECONDS", 0)
    used, most, shares = [], [0], [Place({"N": "0"}), Place({"N": "1"})]

    def start(job, place):
        used.append((os.path.basename(job.run), place.environment["N"]))
        return Fake({"a": 5, "b": 2}.get(used[-1][0], 1))

    pool = Pool(shares, start, lambda: most.append(len(pool.running)))
    assert set(pool.run([job(name) for name in "abcd"]).values()) == {0}
    assert used == [("a", "0"), ("b", "1"), ("c", "1"), ("d", "1")]
    assert max(most) == 2


@pytest.mark.parametrize(("stubborn", "status"), [(False, 75), (True, 137)])
def test_signals_go_on_to_all_and_nothing_new_starts(stubborn, status, job, start, tmp_path):
    settings = ("wait", "stubborn") if stubborn else ("wait",)
    pool = Pool([Place(), Place()], start)

    def interrupt():
        logs = [tmp_path / "logs" / f"{name}.txt" for name in "ab"]
        while not all(path.exists() and "ready" in path.read_text() for path in logs):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
        if stubborn:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    found = pool.run([job(name, *settings) for name in "abc"])
    thread.join()
    assert found == {str(tmp_path / name): status for name in "ab"}
    assert pool.stopped == "SIGINT"
    assert not (tmp_path / "logs" / "c.txt").exists()
    assert subprocess.run(["true"]).returncode == 0  # the handlers are those of before
