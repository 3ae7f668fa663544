import json
import pathlib
import subprocess
import sys

import pytest

from model.options import from_json
from train.experiment import Experiment, load
from train.metrics import read_metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tiny_experiment, write_config, tmp_path):
    experiment = tiny_experiment(training__num_steps=6, evaluation__every=6, samples__prompts=())
    return write_config(experiment, tmp_path / "tiny.py")


def test_print_config_says_all_and_trains_nothing(command, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed = command("launch.train", f"--config={config}", "--print_config", "--set=model.num_layers=3")
    assert status == 0
    text, table = printed.split("\n\n", 1)
    experiment = from_json(Experiment, json.loads(text))
    assert experiment.model.num_layers == 3
    row = next(line for line in table.splitlines() if line.startswith("blocks.attention.query"))
    assert row.split() == [
        "blocks.attention.query",
        "3x32x4x8",
        *"layer embed heads head_dim - fsdp tensor - 3,072".split(),
    ]
    assert "parameters           36,096 (27,872 without embeddings)" in table  # worked out by hand
    assert "tokens per step      128" in table
    assert "mesh                 data 8 x fsdp 1 x tensor 1 (8 devices)" in table
    assert "FLOPs per token" in table
    assert "memory per device    parameters 0.1 MiB, optimizer 0.3 MiB, gradients 0.1 MiB" in table
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.py"]


def test_trains_stops_and_goes_on(command, config, tmp_path, monkeypatch):
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


def test_help_is_a_page():
    done = subprocess.run([sys.executable, "-m", "launch.train", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert "Trains a model." in done.stdout
    assert "75 when a signal ended it" in done.stdout
    for flag in ("--config", "--set", "--run", "--hard_stop", "--[no]print_config"):
        assert flag in done.stdout, flag
