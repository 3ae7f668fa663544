"""Processes that tokenize: what a terminal sends to all of a command's processes ends only the first of them."""

import os
import signal

from train.data.prepare.workers import _Process
from train.process.preemption import STOPS


def test_signals_that_end_a_command_do_not_reach_its_workers(dataset):
    setup = {"folder": str(dataset.folder), "validation": None, "held": None, "dropped": []}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with _Process(setup) as worker:
        for number in STOPS:
            os.kill(worker._process.pid, number)
        assert worker.run({"name": "empty", "split": "train", "units": []})["shards"] == {}
        for number in STOPS:
            os.kill(worker._process.pid, number)
        assert worker.run({"name": "again", "split": "train", "units": []})["shards"] == {}
    assert worker._process.returncode == -signal.SIGKILL
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked
