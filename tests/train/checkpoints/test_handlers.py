"""The threads with which orbax writes a checkpoint."""

import pytest
import tensorstore

from tests.train.states import assert_same_bits, at_step, open_store, restore_latest
from train.checkpoints import handlers


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (6, 3), (64, 4)])
def test_fewer_threads_compress_than_there_are_cores(cores, threads, experiment, first, tmp_path, monkeypatch):
    """Then the others write, and compressed arrays do not pile up in memory."""
    settings, plain = [], tensorstore.Context

    def noted(given, *arguments, **options):
        settings.append(given)
        return plain(given, *arguments, **options)

    monkeypatch.setattr(handlers.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(tensorstore, "Context", noted)
    with open_store(tmp_path) as store:
        store.save(experiment, at_step(first, 10), 10, loss=None)
        store.finish()
    of_arrays = [given for given in settings if "data_copy_concurrency" in given]
    assert len(of_arrays) == 2  # the parameters and the rest
    assert all(given["data_copy_concurrency"] == {"limit": threads} for given in of_arrays)
    monkeypatch.undo()
    assert_same_bits(restore_latest(tmp_path, experiment), at_step(first, 10))
