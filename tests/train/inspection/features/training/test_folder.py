"""The folder: checkpoints that are whole or refused, and the model that it belongs to."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from tests.train.inspection.features.conftest import features_of
from train.inspection.features.training import folder as folders


def test_a_checkpoint_is_read_back_and_old_ones_are_removed(tmp_path):
    states = {"a": {"x": jnp.arange(5.0), "n": jnp.int32(3)}}
    for step in (1, 2, 3):
        folders.save(tmp_path, states, step)
    assert folders.steps(tmp_path) == [2, 3]
    found, step = folders.restore(tmp_path, states, states_on(states))
    assert step == 3
    np.testing.assert_array_equal(found["a"]["x"], np.arange(5.0))
    assert found["a"]["n"] == 3


def states_on(states):
    import jax

    return jax.tree.map(lambda x: x.sharding, states)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    states = {"a": {"x": jnp.arange(5.0)}}
    assert folders.restore(tmp_path, states, states_on(states)) is None
    folders.save(tmp_path, states, 1)
    path = tmp_path / "checkpoints" / "1" / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="is damaged: a.x is not what was written"):
        folders.restore(tmp_path, states, states_on(states))


def test_a_folder_of_other_things_is_left_alone(trained, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="holds other files"):
        folders.claim(tmp_path, trained.features, trained.run)
    with pytest.raises(UserError, match="is no folder of autoencoders"):
        folders.load_settings(tmp_path)


def test_a_folder_of_another_model_is_refused(copied):
    folders.claim(copied.folder, features_of(), copied.run)
    other = dataclasses.replace(copied.run, step=3, params={**copied.run.params, "more": jnp.ones(2)})
    with pytest.raises(UserError, match=r"was trained on .*step 20 .* and this model is .*step 3"):
        folders.claim(copied.folder, features_of(), other)
