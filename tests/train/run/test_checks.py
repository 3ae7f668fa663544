"""Whether a run is finished: answered from its files, without an array."""

import json
import shutil

import jax
import pytest

from model.errors import UserError
from train.checkpoints.faults import UnreadableError
from train.checkpoints.files import DIGESTS_FILE
from train.checkpoints.store import CheckpointStore
from train.run import checks
from train.run.checks import is_finished


@pytest.fixture
def copied(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "copy")


@pytest.fixture
def no_arrays(monkeypatch):
    """Fails where a checkpoint is restored or an array is put anywhere."""

    def refuse(*arguments, **options):
        raise AssertionError("an array was made")

    for owner, name in ((CheckpointStore, "restore"), (CheckpointStore, "_read_arrays"), (jax, "device_put")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(checks, "load_params", refuse)


def largest(run, step=20):
    files = [path for path in (run / "checkpoints" / str(step) / "params").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def test_yes_without_an_array(tiny_experiment, tiny_run, no_arrays):
    assert is_finished(tiny_experiment(), tiny_run)


def test_no_without_an_array(tiny_experiment, copied, no_arrays):
    (copied / "status.json").write_text(json.dumps({"state": "interrupted", "step": 20}))
    assert not is_finished(tiny_experiment(), copied)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "record", "note"])
def test_a_damaged_last_checkpoint_is_no_end(damage, tiny_experiment, copied, no_arrays):
    """One bit of one parameter is enough, as it was when all of them were restored to see it."""
    path = largest(copied)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-1])
    elif damage == "gone":
        shutil.rmtree(copied / "checkpoints" / "20")
    elif damage == "record":
        (copied / "checkpoints" / "20" / DIGESTS_FILE).write_text("{")
    else:
        (copied / "checkpoints" / "20" / "note" / "metadata").write_text("{}")
    assert not is_finished(tiny_experiment(), copied)


def test_a_file_that_cannot_be_read_is_said(tiny_experiment, copied, no_arrays):
    path = largest(copied)
    path.unlink()
    path.symlink_to(path)  # a loop
    with pytest.raises(UnreadableError, match="checkpoint 20 in .* cannot be read"):
        is_finished(tiny_experiment(), copied)


@pytest.mark.parametrize("flipped", [False, True])
def test_files_without_digests_are_restored_to_know(flipped, tiny_experiment, copied):
    """Checkpoints that were written before November 2026 have sizes alone of their larger files."""
    record = copied / "checkpoints" / "20" / DIGESTS_FILE
    recorded = {name: (size, None) for name, (size, _) in json.loads(record.read_text()).items()}
    record.write_text(json.dumps(recorded))
    if flipped:
        data = bytearray(largest(copied).read_bytes())
        for place in range(0, len(data), 97):  # orbax leaves old nodes of its index in a file, which nothing reads
            data[place] ^= 1
        largest(copied).write_bytes(data)
    assert is_finished(tiny_experiment(), copied) is not flipped


def test_the_run_of_another_experiment_is_refused(tiny_experiment, tiny_run):
    with pytest.raises(UserError, match="training.seed: 0 -> 1"):
        is_finished(tiny_experiment(training__seed=1), tiny_run)
