"""launch.clusters.joint: its mistakes are one line, and its exit status is that of its members. A sweep with it, for real."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from launch.clusters.job import Job
from model.errors import UserError
from tests.train.lab.ablation_files import write_ablation
from train.joint import training
from train.joint.training import End
from train.loop import Outcome

MODULE = "launch.clusters.joint"
ROOT = pathlib.Path(__file__).resolve().parents[3]
CONFIG = "--config=configs/small.py"
ONE = "--member=nowhere/a training.seed=1"
REFUSED = [
    ([], "--config is missing"),
    ([CONFIG, ONE], "fewer than two runs"),
    ([CONFIG, ONE, "--member=nowhere/../nowhere/a"], "two have the folder"),
    ([CONFIG, ONE, "--member='nowhere/b"], "No closing quotation; expected 'RUN field=value ...'"),
    ([CONFIG, ONE, "--member=nowhere/b training.sed=1"], "training.sed"),
    ([CONFIG, ONE, "--member=nowhere/b model.width=256"], "a and b cannot train in one program"),
    ([CONFIG, ONE, "more"], "unexpected argument 'more'"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_mistakes(flags, message, command):
    status, printed = command(MODULE, *flags)
    assert status == 2, printed
    assert message in printed
    assert "Traceback" not in printed


DONE, STOPPED = Outcome("finished", 6), Outcome("interrupted", 3, "SIGTERM; the same command continues from step 3")
ENDS = [
    ([(DONE, None), (DONE, None)], 0),
    ([(DONE, None), (None, UserError("all skipped"))], 2),
    ([(None, ZeroDivisionError("broken")), (None, UserError("all skipped"))], 1),
    ([(STOPPED, None), (None, ZeroDivisionError("broken"))], 75),
    ([(None, RuntimeError("RESOURCE_EXHAUSTED: out of memory")), (DONE, None)], 2),
]


@pytest.mark.parametrize(("ends", "expected"), ENDS, ids=[str(status) for _, status in ENDS])
def test_the_status_is_that_of_the_worst(ends, expected, command, monkeypatch, tmp_path):
    def pretended(members, hard_stop, say, stop, stall_seconds):
        assert (hard_stop, [member.experiment.training.seed for member in members]) == (9, [7, 8])
        say(members[0], "step 2: validation loss 3.0")
        return [End(member, *end) for member, end in zip(members, ends, strict=True)]

    monkeypatch.setattr(training, "train_jointly", pretended)
    members = [f"--member={tmp_path / name} training.seed={seed}" for name, seed in (("a", 7), ("b", 8))]
    status, printed = command(MODULE, CONFIG, *members, "--hard_stop=9")
    assert status == expected
    assert "a: step 2: validation loss 3.0\n" in printed
    logs = [(tmp_path / name / "logs" / "sweep.txt") for name in "ab"]
    texts = [log.read_text() if log.exists() else "" for log in logs]
    assert texts[0].startswith("step 2: validation loss 3.0\n")
    for text, (_, error) in zip(texts, ends, strict=True):
        assert ("error: " in text) == (error is not None)
        assert ("ZeroDivisionError: broken" in text) == isinstance(error, ZeroDivisionError)  # with its traceback
        assert ("give fewer (--joint)" in text) == isinstance(error, RuntimeError)


def test_the_command_of_members_is_read_back():
    members = (("runs/a b", ("model.position=Rotary(theta=1e4)", "name='x y'")), ("runs/b", ()))
    words = Job(config="c.py", run="runs/a b", settings=("x=1",), members=members, more=("--hard_stop=1",)).command()
    assert words[1:5] == ["-m", MODULE, "--config=c.py", "--set=x=1"]
    assert words[-1] == "--hard_stop=1"
    read = [shlex.split(word.removeprefix("--member=")) for word in words[5:-1]]
    assert read == [[run, *settings] for run, settings in members]


@pytest.mark.sweep
def test_a_sweep_in_one_program_equals_runs_one_after_another(tiny_experiment, tmp_path):
    experiment = tiny_experiment(model__num_layers=1, training__num_steps=4, samples__prompts=(), evaluation__every=2)
    fields = "variants={'fast': 'schedule.peak=2e-2', 'wide': 'model.ffn.width=96'}, seeds=(0, 1)"
    config, losses = write_ablation(tmp_path / "a.py", experiment, fields), {}
    for joint in (1, 8):
        folder = tmp_path / str(joint)
        words = [sys.executable, "-m", "launch.sweep", f"--config={config}", f"--run={folder}", f"--joint={joint}"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "report.html" in done.stdout
        for run in sorted(folder.glob("*-seed?")):
            *_, last = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
            losses[joint, run.name] = last["loss"]
    assert len(losses) == 12
    for (joint, name), loss in losses.items():
        assert loss == pytest.approx(losses[1, name], rel=1e-5), (joint, name)
    logs = {path.name for path in (tmp_path / "8" / "logs").iterdir()}
    assert logs == {"base-seed0-joint.txt", "wide-seed0-joint.txt"}  # of one variant, and of a rate: two programs
    again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0
    assert "training" not in again.stderr


@pytest.mark.sweep
def test_a_joint_sweep_that_is_killed_ends_with_the_same_bytes(tiny_experiment, tmp_path):
    """Both of its processes get SIGKILL after the first checkpoints; the same command goes on from them."""
    experiment = tiny_experiment(
        model__num_layers=1, training__num_steps=80, samples__prompts=(), evaluation__every=40, checkpoints__every=10
    )
    config, runs = (
        write_ablation(tmp_path / "a.py", experiment, "variants={'fast': 'schedule.peak=2e-2'}, seeds=(0, 1)"),
        {},
    )
    for name in ("whole", "killed"):
        folder = tmp_path / name
        words = [sys.executable, "-m", "launch.sweep", f"--config={config}", f"--run={folder}", "--joint=4"]
        if name == "killed":
            process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
            while not (folder / "fast-seed1" / "checkpoints" / "10").exists():
                assert process.poll() is None
                time.sleep(0.05)
            for number in (process.pid, int((folder / "fast-seed1" / ".lock").read_text().split()[-1])):
                os.kill(number, signal.SIGKILL)
            process.wait()
            assert "finished" not in (folder / "fast-seed1" / "status.json").read_text()
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        runs[name] = {path.parent.name: path.read_bytes() for path in folder.glob("*-seed?/metrics.jsonl")}
    assert len(runs["whole"]) == 4
    assert runs["killed"] == runs["whole"]
