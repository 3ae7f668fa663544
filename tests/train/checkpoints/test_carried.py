"""Arrays beside the state in a checkpoint: they come back to the bit, and only to a run that continues."""

import numpy as np
import pytest

from model.errors import UserError
from tests.train.states import abstract_state_of, assert_same_bits, at_step, open_store, shardings_on
from train.checkpoints.carried import placed
from train.checkpoints.checksums import checksums

CARRIED = {
    "tokens": np.arange(12, dtype=np.int32).reshape(3, 4),
    "rewards": np.array([0.1, -np.inf, np.nan], np.float32),
    "text": np.frombuffer("naïve".encode(), np.uint8),
}


def test_they_come_back_to_the_bit_with_the_state(experiment, first, tmp_path):
    arguments = experiment, shardings_on(experiment), abstract_state_of(experiment)
    with open_store(tmp_path) as store:
        store.save(experiment, at_step(first, 10), 10, None, CARRIED)
        store.finish()
        assert store.carried == {}
        assert_same_bits(store.restore_latest(*arguments), at_step(first, 10))
        assert {name: x.dtype for name, x in store.carried.items()} == {name: x.dtype for name, x in CARRIED.items()}
        assert all(x.tobytes() == CARRIED[name].tobytes() for name, x in store.carried.items())
        store.save(experiment, at_step(first, 20), 20, None)
        store.finish()
        store.restore_latest(*arguments)
        assert store.carried == {}


def test_a_changed_array_is_damage(experiment, first, tmp_path, monkeypatch):
    with open_store(tmp_path) as store:
        monkeypatch.setattr(
            "train.checkpoints.store.checksums",
            lambda tree: {name: value + 1 for name, value in checksums(tree).items()},
        )
        store.save(experiment, at_step(first, 10), 10, None, CARRIED)
        store.finish()
        monkeypatch.undo()
        with pytest.raises(UserError, match=r"damaged \(the checksum of carried\.\w+ is wrong\)"):
            store._restore_carried(10)


def test_other_formats_are_a_fault_of_the_code():
    with pytest.raises(AssertionError, match="lengths is int64"):
        placed({"lengths": np.zeros(2, np.int64)})
