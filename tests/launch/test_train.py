import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

from model.options.json import from_json
from tests.tiers import SWEEP, representatives
from train import loop
from train.evaluation.validation import SplitEvaluation
from train.experiment import Experiment, load
from train.run.metrics import read_metrics, read_status

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tiny_experiment, write_config, tmp_path):
    experiment = tiny_experiment(training__num_steps=6, evaluation__every=6, samples__prompts=())
    return write_config(experiment, tmp_path / "tiny.py")


def test_print_config_says_all_and_trains_nothing(command, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed = command(
        "launch.train", f"--config={config}", "--print_config", "--set=model.num_layers=3", "--mesh=fsdp=2"
    )
    assert status == 0
    text, table = printed.split("\n\n", 1)
    experiment = from_json(Experiment, json.loads(text))
    assert experiment.model.num_layers == 3
    row = next(line for line in table.splitlines() if line.startswith("blocks.mixer.query"))
    assert row.split() == [
        "blocks.mixer.query",
        "projection",
        "3x32x4x8",
        *"layer embed heads head_dim - fsdp - - optimizer 3,072".split(),
    ]
    assert "parameters           36,096 (27,872 without embeddings)" in table  # worked out by hand
    assert "tokens per step      128" in table
    assert "mesh                 data 4 x fsdp 2 (8 devices)" in table
    assert "FLOPs per token" in table
    assert "memory per device    parameters 0.1 MiB, optimizer 0.1 MiB, gradients 0.1 MiB" in table
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.py"]


def test_trains_stops_and_goes_on(command, reports, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed = command("launch.train", f"--config={config}", "--hard_stop=4", "--set=optimizer.b1=0.8")
    assert status == 0
    assert "stopped at step 4: --hard_stop=4" in printed
    run = tmp_path / "runs" / "tiny"  # named after the config
    assert load(run).optimizer.b1 == 0.8
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 4]
    status, printed = command("launch.train", f"--config={config}", "--set=optimizer.b1=0.8")
    assert status == 0
    assert "resuming runs/tiny at step 4 of 6" in printed
    assert "report: runs/tiny/report.html" in printed
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 4, 5, 6, 6]
    assert (run / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("number", representatives([signal.SIGTERM, signal.SIGHUP], signal.SIGTERM))
def test_a_signal_ends_it_with_the_documented_status_and_it_goes_on(number, command, config, tmp_path, monkeypatch):
    often = (f"--config={config}", "--set=evaluation.every=2")
    status, printed = command("launch.train", *often, f"--run={tmp_path / 'whole'}")
    assert status == 0, printed
    evaluate = SplitEvaluation.__call__

    def signalled(self, state):
        os.kill(os.getpid(), number)
        return evaluate(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(SplitEvaluation, "__call__", signalled)
        status, printed = command("launch.train", *often, f"--run={tmp_path / 'run'}")
    assert status == 75
    assert f"interrupted at step 2: {number.name}; the same command continues from step 2" in printed
    assert read_status(tmp_path / "run")["state"] == "interrupted"
    status, printed = command("launch.train", *often, f"--run={tmp_path / 'run'}")
    assert status == 0, printed
    assert f"resuming {tmp_path / 'run'} at step 2 of 6" in printed
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "whole")]
    assert metrics[0] == metrics[1]
    assert metrics[0].count(b"\n") == 6 + 3


def test_a_signal_while_the_text_is_prepared(command, config, tmp_path, monkeypatch):
    def signalled(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal did not cut it")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "prepare", signalled)
        status, printed = command("launch.train", f"--config={config}", f"--run={tmp_path / 'run'}")
    assert status == 75
    assert printed == "interrupted at step 0: SIGTERM while the text was prepared; the same command continues\n"
    status, printed = command("launch.train", f"--config={config}", f"--run={tmp_path / 'run'}")
    assert status == 0, printed


def test_a_run_whose_checkpoints_are_gone_starts_over_and_keeps_its_numbers(command, config, tmp_path):
    run = tmp_path / "run"
    assert command("launch.train", f"--config={config}", f"--run={run}")[0] == 0
    before = (run / "metrics.jsonl").read_bytes()
    shutil.rmtree(run / "checkpoints")
    status, printed = command("launch.train", f"--config={config}", f"--run={run}")
    assert status == 0, printed
    assert "starting over; what was logged before is in files named .old" in printed
    assert (run / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl.old").read_bytes() == before


def test_the_meshes_of_the_page(command):
    """Every --set of the page on meshes, as it stands there."""
    text = (
        (ROOT / "train/parallel/README.md").read_text(encoding="utf-8").split("## Your own devices")[1].split("\n##")[0]
    )
    commands = re.findall(r"^python -m launch\.train (.*)$", text.replace("\\\n", ""), re.MULTILINE)
    assert len(commands) == 2
    for line in commands:
        status, printed = command("launch.train", *shlex.split(line))
        assert status == 0, printed


def test_too_little_memory_on_a_device_is_an_error_of_the_user(command, config, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore")

    monkeypatch.setattr(loop, "train", full)
    status, printed = command("launch.train", f"--config={config}", f"--run={tmp_path / 'run'}")
    assert status == 2
    assert "Out of memory allocating 9 bytes." in printed
    assert "Lower data.batch_size" in printed


@SWEEP
def test_too_many_skipped_steps_are_an_error_of_the_user(command, config, tmp_path):
    wild = ("--set=optimizer=SGD()", "--set=schedule=Constant(peak=1e30)", "--set=training.clip_norm=None")
    few = "--set=training.guard.max_consecutive=2"
    status, printed = command("launch.train", f"--config={config}", *wild, few, f"--run={tmp_path / 'run'}")
    assert status == 2
    assert re.search(r"error: steps \d to \d were all skipped: .*Lower schedule\.peak", printed)
    assert "Traceback" not in printed


def test_help_is_a_page():
    done = subprocess.run([sys.executable, "-m", "launch.train", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Trains a model." in done.stdout
    assert "75 when a signal ended it" in done.stdout
    for flag in ("--config", "--set", "--run", "--hard_stop", "--[no]print_config"):
        assert flag in done.stdout, flag
