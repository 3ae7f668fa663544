"""The watchdog: progress, patience, the stacks of all threads, and the end of a run whose hook hangs."""

import json
import pathlib
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tests.train.process.memory_store import groups
from train.loop import train
from train.process import watchdog
from train.process.watchdog import EXIT_STALLED, Watchdog

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture
def ended():
    """The reasons with which a watchdog would have ended the process."""
    return []


def guard(folder, ended, seconds=0.3, **given):
    return Watchdog(seconds, folder / "logs" / "stacks-0.txt", ended.append, **given)


def test_without_progress_it_writes_all_stacks_and_ends(ended, tmp_path, capfd):
    said, asked = [], []
    given = {"say": said.append, "ask_others": lambda: asked.append("others")}
    with guard(tmp_path, ended, **given) as dog, dog.doing("a collective that hangs"):
        a_function_that_waits(ended)
    (reason,) = ended
    assert said == [reason]
    assert asked == ["others"]
    assert reason.startswith("no progress for 0 s, in a collective that hangs; the stacks of all threads are in ")
    text, printed = (tmp_path / "logs" / "stacks-0.txt").read_text(), capfd.readouterr().err
    for found in (text, printed):
        assert "a_function_that_waits" in found  # the main thread
        assert "_watch" in found  # another
    assert f"error: {reason}" in printed


def a_function_that_waits(ended):
    deadline = time.monotonic() + 20
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)


def test_progress_keeps_it_quiet(ended, tmp_path):
    with guard(tmp_path, ended, seconds=1.0) as dog:
        for _ in range(8):
            time.sleep(0.2)
            dog.alive()
    time.sleep(1.2)  # nor does it act after the end
    assert ended == []


def test_patience_inside_an_action_only(ended, tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, "PATIENT_SECONDS", 20)
    with guard(tmp_path, ended) as dog:
        with dog.doing("compiling", patient=True):
            with dog.doing("an action inside"):
                time.sleep(0.7)
            assert ended == []
        a_function_that_waits(ended)
    assert len(ended) == 1


def test_seconds_of_0_watch_nothing(ended, tmp_path):
    with guard(tmp_path, ended, seconds=0):
        time.sleep(0.1)
        assert "watchdog" not in {thread.name for thread in threading.enumerate()}


def test_a_file_system_that_hangs_does_not_hold_it_up(ended, tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, "_DUMP_SECONDS", 0.1)
    with guard(tmp_path, ended, say=lambda reason: time.sleep(30), ask_others=lambda: 1 / 0):
        a_function_that_waits(ended)
    assert len(ended) == 1


def test_the_other_processes_write_their_stacks():
    made, written = groups(3), []
    for group in made:
        group.watch.on_stacks = lambda index=group.index: written.append(index)
    made[1].watch.tell("stacks")
    deadline = time.monotonic() + 20
    while len(written) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(written) == [0, 2]
    made[0].watch.end()


PROGRAM = """
import pathlib, sys, time
from train.config_file import from_file
from train.hooks.interface import Hook
from train.loop import train

class Hang(Hook):
    def __init__(self, session):
        self.every = 4

    def __call__(self, info):
        while True:
            time.sleep(0.1)

train(from_file(sys.argv[1]), pathlib.Path(sys.argv[2]), hooks=[Hang], stall_seconds=5.0)
"""


def test_a_run_with_a_hook_that_hangs(tiny_experiment, write_config, tmp_path):
    """Compiling takes longer than the time allowed, and so do evaluating and saving with their compilation."""
    experiment = tiny_experiment(training__num_steps=6, evaluation__every=3, checkpoints__every=3)
    config, run = write_config(experiment, tmp_path / "config.py"), tmp_path / "run"
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(config), str(run)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == EXIT_STALLED == 70
    assert "error: no progress for 5 s, in Hang; the stacks of all threads are in" in done.stderr
    stacks = (run / "logs" / "stacks-0.txt").read_text()
    assert "in __call__" in stacks
    assert "_call_hooks" in stacks
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"]) == ("failed", 4)
    assert status["reason"].startswith("no progress")
    # The same command continues from the checkpoint of step 3.
    assert train(experiment, run, say=lambda line: None).state == "finished"
