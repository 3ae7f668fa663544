"""An experiment and a state of it, for tests of checkpoints."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.train.states import placed_on
from train.state import Recipe, init_sharded


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    return tiny_experiment(model__vocab_size=64)


@pytest.fixture(scope="module")
def first(experiment):
    """A state on the host, its moments and counts filled with noise."""
    recipe = Recipe.of(experiment)
    state = jax.device_get(init_sharded(recipe, 0, placed_on(experiment)))
    draw = np.random.default_rng(0)

    def noise(x):
        return draw.normal(size=x.shape).astype(x.dtype) if x.dtype.kind == "f" else x + 7

    return dataclasses.replace(state, opt_state=jax.tree.map(noise, state.opt_state), key=state.key)
