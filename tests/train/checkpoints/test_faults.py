import errno
import json
import os
import shutil

import jax
import orbax.checkpoint as ocp
import pytest

from model.errors import UserError
from tests.train.states import abstract_state_of, assert_same_bits, at_step, open_store, shardings_on
from train.checkpoints.faults import DamagedError, UnreadableError, cause_message, diagnose
from train.checkpoints.files import DIGESTS_FILE
from train.checkpoints.store import CheckpointStore
from train.experiment import Checkpoints

# Reads that fail half-way leave coroutines behind in orbax.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def two_saved(experiment, first, tmp_path_factory):
    run = tmp_path_factory.mktemp("two")
    with open_store(run) as store:
        for step in (10, 20):
            store.save(experiment, at_step(first, step), step, loss=float(step))
    return run


@pytest.fixture
def two(two_saved, tmp_path):
    return shutil.copytree(two_saved, tmp_path / "run")


def wrapped(error):
    """An error in the form in which libraries pass it on."""
    outer = ValueError("reading failed")
    outer.__cause__ = error
    return outer


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


# Errors that say nothing about the bytes on the disk: permissions, disks, memory, and libraries of another version.
FAULTS = [
    PermissionError(errno.EACCES, "Permission denied", "/a/file"),
    OSError(errno.EIO, "Input/output error", "/a/file"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "/a/file"),
    wrapped(PermissionError(errno.EACCES, "Permission denied")),
    MemoryError(),
    ImportError("no module named 'zarr'"),
    AttributeError("'dict' object has no attribute 'shape'"),
    KeyError("tree_metadata"),
    RuntimeError("a bug"),
    ValueError("DATA_LOSS: Error reading local file"),
    json.JSONDecodeError("Expecting value", "", 0),
]


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_a_fault_of_something_else_is_said_and_leaves_all_as_it_is(error, experiment, two, monkeypatch):
    """Every file has its recorded bytes, so no error of a library means damage."""
    said, before = [], contents(two)
    with open_store(two, said) as store:

        def fail(*arguments, **options):
            raise error

        monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
        with pytest.raises(UnreadableError) as caught:
            store.restore_latest(experiment, shardings_on(experiment), abstract_state_of(experiment))
    told = str(caught.value)
    assert told.startswith(f"checkpoint 20 in {two / 'checkpoints'} cannot be read: {cause_message(error)}")
    assert told.endswith("; nothing was changed: fix that, then give the same command again")
    assert said == []
    assert contents(two) == before
    monkeypatch.undo()
    with open_store(two, said) as store:
        assert int(store.restore_latest(experiment, shardings_on(experiment), abstract_state_of(experiment)).step) == 20


def test_too_little_memory_on_a_device_is_left_to_the_commands(experiment, two, monkeypatch):
    def fail(*arguments, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    with open_store(two) as store:
        monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
        with pytest.raises(jax.errors.JaxRuntimeError):
            store.restore_latest(experiment, shardings_on(experiment), abstract_state_of(experiment))


def without_permission(monkeypatch, denied, code=errno.EACCES):
    """From here on the system refuses to open a path for which `denied` is true (root may open everything)."""
    real = open

    def refuse(path, *arguments, **options):
        if not isinstance(path, int) and denied(os.fspath(path)):
            raise OSError(code, os.strerror(code), os.fspath(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", refuse)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "older"])
def test_a_file_that_may_not_be_read_is_not_damaged(recorded, code, two, monkeypatch):
    """With or without a record of the files, and for every error of the library."""
    if not recorded:
        (two / "checkpoints/20" / DIGESTS_FILE).unlink()
    without_permission(monkeypatch, lambda path: path.endswith("20/params/manifest.ocdbt"), code)
    told = diagnose(two / "checkpoints" / "20", ValueError("DATA_LOSS: Error reading local file"))
    assert isinstance(told, UnreadableError)
    assert f"cannot be read: {os.strerror(code)}: {two}/checkpoints/20/params/manifest.ocdbt; nothing" in str(told)


@pytest.mark.parametrize(
    ("error", "damage"),
    [
        (ValueError("DATA_LOSS: Error opening"), True),
        (wrapped(ValueError("NOT_FOUND: Metadata at")), True),
        (json.JSONDecodeError("Expecting value", "", 0), True),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), True),
        (FileNotFoundError("File note/metadata not found."), True),
        (ValueError("UNKNOWN: Error reading local file: Input/output error [os_error_code='5']"), False),
        (ValueError("UNKNOWN: Error reading local file [OS error 5: EIO Input/output error]"), False),
        (KeyError("tree_metadata"), False),
        (MemoryError(), False),
        (ValueError("Requested shape is not that of the array"), False),
    ],
    ids=str,
)
def test_without_a_record_the_library_has_to_say_what_it_read(error, damage, two):
    (two / "checkpoints/20" / DIGESTS_FILE).unlink()
    told = diagnose(two / "checkpoints" / "20", error)
    assert isinstance(told, DamagedError if damage else UnreadableError)


def test_a_checkpoint_that_another_process_has_removed_is_not_damaged(two):
    shutil.rmtree(two / "checkpoints" / "20")
    told = diagnose(two / "checkpoints" / "20", FileNotFoundError("File note/metadata not found."))
    assert isinstance(told, UnreadableError)
    assert "cannot be read: another process has removed it;" in str(told)


def test_a_folder_that_may_not_be_listed_is_not_an_empty_one(two, monkeypatch):
    def refuse(path="."):
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))

    monkeypatch.setattr(os, "listdir", refuse)
    for read_only in (False, True):
        with pytest.raises(UnreadableError, match=r"run/checkpoints cannot be read: Permission denied; nothing was"):
            CheckpointStore(two, Checkpoints(), read_only=read_only)


def test_a_checkpoint_that_orbax_does_not_list_is_not_taken_for_none(two, monkeypatch):
    """As it does not where it may list the folder and may not look into it."""
    monkeypatch.setattr(ocp.CheckpointManager, "all_steps", lambda self: [10])
    with pytest.raises(UnreadableError, match=r"checkpoint 20 in .* cannot be read: RuntimeError: orbax does not list"):
        CheckpointStore(two, Checkpoints())


def test_an_older_one_that_cannot_be_judged_ends_a_training_and_the_search_for_the_best(experiment, two, monkeypatch):
    real = ocp.CheckpointManager.restore

    def fail(self, step, *arguments, **options):
        if step == 10:
            raise PermissionError(errno.EACCES, "Permission denied", "/a/file")
        return real(self, step, *arguments, **options)

    monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
    with pytest.raises(UnreadableError, match="checkpoint 10 .* cannot be read: Permission denied: /a/file"):
        CheckpointStore(two, Checkpoints())  # it might remove the best checkpoint
    with CheckpointStore(two, Checkpoints(), read_only=True) as store:
        assert int(store.restore_latest(experiment, shardings_on(experiment), abstract_state_of(experiment)).step) == 20
        with pytest.raises(UnreadableError, match="checkpoint 10"):
            store.best_step()


def test_a_note_of_another_format_is_not_damaged(experiment, two, monkeypatch):
    monkeypatch.setattr("train.checkpoints.contents.EARLIER_NAMES", {1: ()})
    with pytest.raises(UserError, match=r"written by another version of this code \(its format is 4; known here: 1\)"):
        CheckpointStore(two, Checkpoints())


# ---------------------------------------------------------------------------------------------------- failed saves


def broken(after):
    """Orbax's writing, followed by damage that orbax does not notice."""
    real = ocp.PyTreeCheckpointHandler.finalize

    def finalize(self, directory):
        real(self, directory)
        after(directory)

    return finalize


LOSSES = {
    "manifest": (lambda folder: (folder / "manifest.ocdbt").unlink(), "has no manifest.ocdbt"),
    "files": (lambda folder: shutil.rmtree(folder / "ocdbt.process_0"), "the chunk "),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_save_that_cannot_be_read_has_failed_and_costs_no_older_one(loss, experiment, first, tmp_path, monkeypatch):
    said = []
    with open_store(tmp_path, said, keep_last=1, keep_best=0) as store:
        store.save(experiment, at_step(first, 10), 10, loss=None)
        store.finish()
        monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "finalize", broken(LOSSES[loss][0]))
        store.save(experiment, at_step(first, 20), 20, loss=None)
        store.finish()
        assert len(said) == 1
        assert said[0].startswith("WARNING: checkpoint 20 could not be written: ")
        assert LOSSES[loss][1] in said[0]
        assert said[0].endswith("; checkpoint 10 is intact")
        assert LOSSES[loss][1] in store.failure
        assert store.steps() == [10]
        monkeypatch.undo()
        store.save(experiment, at_step(first, 30), 30, loss=None)
        store.finish()
        assert (store.steps(), store.failure, len(said)) == ([30], None, 1)
        assert_same_bits(
            store.restore_latest(experiment, shardings_on(experiment), abstract_state_of(experiment)),
            at_step(first, 30),
        )
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["30"]


def test_a_failed_save_is_said_at_the_next_step(experiment, first, tmp_path, monkeypatch):
    said = []
    with open_store(tmp_path, said) as store:
        monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "finalize", broken(LOSSES["manifest"][0]))
        store.save(experiment, at_step(first, 10), 10, loss=None)
        while not said:
            store.poll()
        assert said[0].startswith("WARNING: checkpoint 10 could not be written: ")
        store.poll()
        assert len(said) == 1
