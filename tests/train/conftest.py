"""An experiment and a state of it, for tests of checkpoints; a config file."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.train.config_files import CONFIG
from tests.train.states import shardings_on
from train.state import StateConfig, init_sharded


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    return tiny_experiment(model__vocab_size=64)


@pytest.fixture(scope="module")
def first(experiment):
    """A state on the host, its moments and counts filled with noise."""
    state_config = StateConfig.of(experiment)
    state = jax.device_get(init_sharded(state_config, 0, shardings_on(experiment)))
    draw = np.random.default_rng(0)

    def noise(x):
        return draw.normal(size=x.shape).astype(x.dtype) if x.dtype.kind == "f" else x + 7

    return dataclasses.replace(state, opt_state=jax.tree.map(noise, state.opt_state), key=state.key)


@pytest.fixture
def config(tmp_path):
    """A function that writes the config, with one piece of its text replaced."""

    def write(old="", new=""):
        assert old in CONFIG
        path = tmp_path / "config.py"
        path.write_text(CONFIG.replace(old, new, 1) if old else CONFIG)
        return str(path)

    return write
