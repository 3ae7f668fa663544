"""Processes that tokenize: a signal that a terminal sends to all processes of a command ends only the first."""

import os
import signal

import pytest

from train.data import prepare
from train.data.prepare.workers import _Process
from train.process.stop import STOP_SIGNALS


def test_signals_that_end_a_command_do_not_reach_its_workers(dataset):
    setup = {"folder": str(dataset.folder), "validation": None, "held_out": None, "dropped": []}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with _Process(setup) as worker:
        for name in ("empty", "again"):
            for number in STOP_SIGNALS:
                os.kill(worker._process.pid, number)
            answer = worker.run({"name": name, "split": "train", "units": []})
            assert (answer["name"], answer["shards"]) == (name, {})
    assert worker._process.returncode == -signal.SIGKILL
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked


def test_worker_that_dies_is_reported(monkeypatch, tmp_path, data, small_shards):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text("import os, sys; 'worker' in str(sys.orig_argv) and os._exit(7)")
    with pytest.raises(RuntimeError, match="ended with status 7"):
        prepare(data, tmp_path / "d", workers=2)
