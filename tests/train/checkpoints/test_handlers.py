"""The threads with which orbax writes a checkpoint, and how it writes arrays that are not compressed."""

import json
import os

import pytest
import tensorstore

from tests.train.states import assert_same_bits, at_step, open_store, restore_latest
from train.checkpoints import handlers
from train.checkpoints.store import CheckpointStore


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (6, 3), (64, 4)])
def test_fewer_threads_compress_than_there_are_cores(cores, threads, experiment, first, tmp_path, monkeypatch):
    """Then the others write, and compressed arrays do not pile up in memory."""
    settings, plain = [], tensorstore.Context

    def noted(given, *arguments, **options):
        settings.append(given)
        return plain(given, *arguments, **options)

    handlers._lasting.cache_clear()
    monkeypatch.setattr(handlers.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(tensorstore, "Context", noted)
    with open_store(tmp_path) as store:
        store.save(experiment, at_step(first, 10), 10, loss=None)
        store.finish()
    of_arrays = [given for given in settings if "data_copy_concurrency" in given]
    assert [given["data_copy_concurrency"] for given in of_arrays] == [{"limit": threads}]
    monkeypatch.undo()
    assert_same_bits(restore_latest(tmp_path, experiment), at_step(first, 10))


def test_saves_and_restores_use_threads_that_are_never_freed(experiment, first, tmp_path, monkeypatch):
    """Tensorstore 0.1.86 may free a group of threads twice if it ends while a thread hands over its last task."""
    used, plain = [], tensorstore.open

    def noted(*arguments, context=None, **options):
        used.append(context)
        return plain(*arguments, context=context, **options)

    monkeypatch.setattr(tensorstore, "open", noted)
    for number in range(2):
        with open_store(tmp_path / str(number)) as store:
            store.save(experiment, at_step(first, 10), 10, loss=None)
            store.finish()
        restore_latest(tmp_path / str(number), experiment)
    groups = ("data_copy_concurrency", "file_io_concurrency")
    found = {id(context[name]): context[name] for context in used for name in groups}
    assert used
    assert all(any(one is kept for kept in handlers._kept) for one in found.values())


def test_arrays_that_are_not_compressed_are_synced_before_the_checkpoint_has_its_name(
    experiment, first, tmp_path, monkeypatch
):
    synced, plain = set(), os.fsync

    def noted(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        return plain(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    with CheckpointStore(tmp_path, experiment.checkpoints, compress=False) as store:
        store.save(experiment, at_step(first, 10), 10, loss=None)
        store.finish()
    monkeypatch.undo()
    assert_same_bits(restore_latest(tmp_path, experiment), at_step(first, 10))
    item = tmp_path / "checkpoints" / "10" / "params"
    assert {path.stat().st_ino for path in item.rglob("*") if path.is_file()} <= synced
    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{item}/"}}
    arrays = tensorstore.KvStore.open(database).result()
    names = [key for key in arrays.list().result() if key.endswith(b".zarray")]
    assert names
    assert all(json.loads(arrays.read(name).result().value)["compressor"] is None for name in names)
