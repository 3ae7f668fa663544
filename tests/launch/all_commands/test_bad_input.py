"""Mistakes that users can make with launch.train: a clear error, status 2, no traceback, nothing lost."""

import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.tiers import SWEEP
from train.run import folder as run_folder

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture
def config(tiny_experiment, write_config, tmp_path):
    return write_config(tiny_experiment(), tmp_path / "tiny.py")


@pytest.fixture
def refused(command, config, tmp_path):
    """A function that runs the command, checks that it refuses properly, and returns its error message."""

    def run(*arguments, run=None, own_config=True):
        given = [f"--config={config}"] if own_config else []
        status, printed = command("launch.train", *given, f"--run={run or tmp_path / 'run'}", *arguments)
        assert status == 2, printed
        assert "Traceback" not in printed
        errors = printed.partition("error: ")[2]
        assert errors, printed
        return errors

    return run


def contents(folder):
    """Every file of a folder and a digest of it; the lock aside."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# -------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.num_layer=3", ["ModelConfig has no field 'num_layer'", "did you mean 'num_layers'?"]),
        ("training.num_steps=many", ["training.num_steps", "expected int", "got 'many' (str)"]),
        ("model.position=Rotary(theta=5e5", ["'Rotary(theta=5e5' is not a valid option", "'(' was never closed"]),
        ("data.validation=None", ["data.validation", "held out, got None"]),
        ("model.mixer.num_kv_heads=3", ["3 does not divide num_heads=4", "use one of [1, 2, 4]"]),
        ("model.mixer=GroupedQuery(num_heads=5)", ["5 heads do not divide width=32", "change one of them"]),
        ("data.batch_size=12", ["12 sequences cannot be split 8 ways", "use a multiple of 8"]),
        ("mesh=Mesh(data=3)", ["mesh: data=3 does not", "the 8 devices here", "change a size"]),
        ("mesh=Mesh(tensor=2)", ["embedding.table", "vocab axis of 257", "--set 'sharding.parameters.vocab=()'"]),
        ("data.sequence_length=64", ["64 is longer than model.context_length=32"]),
        ("model.vocab_size=300", ["model.vocab_size=300", "has 257 tokens", "--set model.vocab_size=257"]),
        ("logging.wandb_project='x'", ["'x'", "pip install wandb"]),
        ("logging.wandb_project=", ["is empty; expected the name of a project, or None"]),
        ("training.seed=1e3", ["training.seed: expected int, got '1e3' (float)"]),
        ("training.clip_norm=1e999", ["training.clip_norm: expected a finite number"]),
        ("samples.prompts=('a\\ud800',)", ["prompt 1 is not UTF-8 at character 1"]),
        ("training.init_from=", ["training.init_from= is empty"]),
        ("model.width=1073741824", ["the parameters and the optimizer's state take", "and this machine has"]),
    ],
)
def test_options(setting, words, refused, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *of: None if name == "wandb" else find(name, *of))
    text = refused(f"--set={setting}")
    for word in words:
        assert word in text, text
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_unknown_field_in_a_config(refused, config):
    config.write_text("from train.optimizers.options import AdamW\nexperiment = AdamW(beta1=0.9)\n")
    assert "line 2: TypeError: AdamW.__init__() got an unexpected keyword argument 'beta1'" in refused()


def test_configs_and_flags(refused, command, tmp_path):
    assert "--config is missing" in refused(own_config=False)
    assert "no config file at" in refused(f"--config={tmp_path / 'none.py'}", own_config=False)
    assert "--hard_stop=0: 0 is not a positive integer" in refused("--hard_stop=0")
    assert "a config is a Python file" in refused("--config=README.md", own_config=False)
    assert "unexpected argument 'more'" in refused("more")
    assert "flag --hard_stop=soon" in refused("--hard_stop=soon")
    assert "--run is empty; give it a value, or leave it out" in refused("--run=")
    assert "--config is empty" in refused("--config=", own_config=False)
    assert "--set is empty" in refused("--set=")
    assert "contains a NUL" in refused("--run=a\0b")
    assert "File name too long" in refused(f"--run={'x' * 5000}")
    text = refused("--confg=x.py")
    assert "Unknown command line flag 'confg'" in text
    assert "See --help" in text


# ----------------------------------------------------------------------------------------------------------- text


def test_missing_empty_and_undecodable_text(refused, tmp_path):
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("")
    binary.write_bytes(b"abc\xff\xfe\x00def" * 50)
    for number, (path, words) in enumerate(
        [(tmp_path / "none.txt", "none.txt"), (empty, "empty.txt"), (binary, "binary.txt")]
    ):
        text = refused(f"--set=data.path={path}", run=tmp_path / str(number))
        assert words in text, text
        assert not (tmp_path / str(number) / "checkpoints").exists()
    assert binary.read_bytes() == b"abc\xff\xfe\x00def" * 50


# --------------------------------------------------------------------------------------------------------- shards


@pytest.fixture
def dataset(tiny_run, tmp_path):
    """A copy of the dataset of the tiny run."""
    return shutil.copytree(tiny_run / "data", tmp_path / "data")


def shard_of(dataset):
    return next(dataset.glob("train-*.array_record"))


def test_a_truncated_shard_is_named_with_its_size(refused, dataset):
    shard = shard_of(dataset)
    size = shard.stat().st_size
    os.truncate(shard, size - 100)
    text = refused(f"--set=data.path={dataset}", "--set=data.tokenizer=None", "--set=data.validation=None")
    assert f"{shard} is truncated: {size - 100} bytes, expected {size}" in text


def test_a_corrupted_shard_is_named_with_its_record(refused, dataset, tmp_path):
    shard = shard_of(dataset)
    data = bytearray(shard.read_bytes())
    for at in range(0, len(data), 64):
        data[at] ^= 0xFF
    shard.write_bytes(data)
    text = refused(f"--set=data.path={dataset}", "--set=data.tokenizer=None", "--set=data.validation=None")
    assert re.search(rf"{shard}, record \d+ of 8, is damaged: .* at byte \d+; .*; delete the folder and prepare", text)
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_dataset_of_another_tokenizer(refused, dataset):
    text = refused(f"--set=data.path={dataset}", "--set=data.tokenizer=Characters()")
    assert "is already prepared, with another tokenizer" in text
    assert "data.tokenizer" in text


# ---------------------------------------------------------------------------------------------------- run folders


@pytest.fixture
def finished(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "finished")


def test_a_run_folder_in_use(refused, finished):
    before = contents(finished)
    with run_folder.locked(finished):
        assert f"in use by process {os.getpid()}" in refused(run=finished)
    assert contents(finished) == before


def test_a_run_folder_of_another_config(refused, finished):
    before = contents(finished)
    text = refused("--set=model.width=64", "--set=training.num_steps=30", run=finished)
    assert "model.width: 32 -> 64" in text
    assert "training.num_steps: 20 -> 30" in text
    assert "Give another --run" in text
    assert contents(finished) == before


def test_checkpoints_of_another_model(refused, finished, tmp_path):
    """A checkpoint that was moved by hand under the config of this run."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copytree(finished / "checkpoints", run / "checkpoints")
    (run / "config.json").write_text((finished / "config.json").read_text().replace('"width": 64', '"width": 96'))
    before = contents(run / "checkpoints")
    text = refused("--set=model.ffn.width=96")
    assert "is a checkpoint of another model" in text
    assert "model.ffn.width: 64 -> 96" in text
    assert contents(run / "checkpoints") == before


@SWEEP
def test_a_damaged_newest_checkpoint_is_one_line(finished):
    for path in (finished / "checkpoints" / "20" / "params").rglob("*/d/*"):
        os.truncate(path, 100)
    program = [sys.executable, "-m", "launch.generate", f"--run={finished}", "--prompt=the", "--max_tokens=2"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "ended by" not in line]
    assert len(warnings) == 1, done.stderr
    assert re.search(
        r"WARNING: checkpoint 20 in .* is damaged \(params/.*/d/\w+ has 100 bytes, expected \d+\); trying the one before",
        warnings[0],
    )


def test_all_checkpoints_damaged(refused, finished):
    for note in (finished / "checkpoints").glob("*/note/*"):
        note.write_text("{}")
    metrics = (finished / "metrics.jsonl").read_bytes()
    text = refused(run=finished)
    assert "none of the checkpoints [10, 20]" in text
    assert "move the folder away to start again" in text
    assert (finished / "metrics.jsonl").read_bytes() == metrics


def test_a_damaged_config_is_no_traceback(refused, command, finished):
    for content in (b"\xff\xfe", b"[]", b"3"):
        (finished / "config.json").write_bytes(content)
        assert "config.json is damaged: expected" in refused(run=finished)
        status, printed = command("launch.evaluate", f"--run={finished}")
        assert (status, printed.count("config.json is damaged: expected")) == (2, 1)


def test_a_damaged_config_or_none(refused, finished):
    (finished / "config.json").write_text('{"type": "Experi')
    assert "config.json is damaged" in refused(run=finished)
    (finished / "config.json").unlink()
    assert "holds checkpoints but no config.json" in refused(run=finished)
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["10", "20"]


def test_a_run_that_is_a_file(refused, tmp_path):
    (tmp_path / "taken").write_text("text")
    assert "cannot be a run folder" in refused(run=tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "text"


def test_a_damaged_line_of_metrics(refused, finished):
    text = (finished / "metrics.jsonl").read_text().splitlines(keepends=True)
    text[4] = "garbage\n"
    (finished / "metrics.jsonl").write_text("".join(text))
    shutil.rmtree(finished / "checkpoints" / "20")  # so that there is a run to continue
    said = refused(run=finished)
    assert "metrics.jsonl, line 5" in said
    assert (finished / "metrics.jsonl").read_text() == "".join(text)


# ----------------------------------------------------------------------------------------------------- a full disk


# As a shell gives the command, on a disk where no file may grow beyond `size` bytes. In a process of its own: orbax
# does not wait for its other writers when one fails, and they would continue during the next part of the test. The
# session's record is left out, since it holds all of `git diff`, which may be long.
FULL_DISK = """
import resource, runpy, sys
import train.loop
train.loop.record_session = lambda run: 2
size = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
runpy.run_module("launch.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("size", "filled", "words"),
    [
        pytest.param(1_000, False, r"cannot write .*config\.json: File too large", marks=SWEEP),
        pytest.param(20_000, True, r"cannot write .*throughput\.jsonl: File too large", marks=SWEEP),
        pytest.param(
            20_000,
            False,
            "the checkpoint of step 20, where this session ends, could not be written to .*checkpoints",
            marks=SWEEP,
        ),
    ],
    ids=["config", "metrics", "checkpoint"],
)
def test_a_full_disk_loses_nothing(size, filled, words, command, config, finished, tiny_run):
    shutil.rmtree(finished / "checkpoints" / "20")
    if filled:
        (finished / "throughput.jsonl").write_text(json.dumps({"step": 1, "long": "x" * size}) + "\n")
    before = contents(finished / "checkpoints")
    arguments = [f"--config={config}", f"--run={finished}"]
    program = [sys.executable, "-c", FULL_DISK, str(size), *arguments]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(f"error: .*{words}", done.stderr), done.stderr
    assert re.search("[Mm]ake room .*give the same command again", done.stderr)
    after = contents(finished / "checkpoints")
    assert {path: digest for path, digest in after.items() if "orbax-checkpoint-tmp" not in str(path)} == before
    # There is room again.
    status, printed = command("launch.train", *arguments)
    assert status == 0, printed
    assert "at step 10 of 20" in printed
    for name in ("metrics.jsonl", "samples.txt"):
        assert (finished / name).read_bytes() == (tiny_run / name).read_bytes()
