"""The state of a run: which leaves it has, from the options alone."""

import dataclasses

import jax
import numpy as np
import pytest

from model.transformer import init
from tests.train.states import shardings_on
from train.optimizers.frozen import Frozen
from train.state import (
    StateConfig,
    abstract_state,
    evaluation_params,
    init_sharded,
    init_state,
    merge_trained,
    partition_params,
)


@pytest.fixture(scope="module")
def state_config(tiny_experiment):
    experiment = tiny_experiment()
    training = dataclasses.replace(experiment.training, frozen=Frozen(parts=("embedding",)))
    return StateConfig.of(dataclasses.replace(experiment, training=training))


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_a_tree_is_split_and_put_together_again(state_config):
    params = init(state_config.model, jax.random.key(0))
    parts = partition_params(state_config, params)
    assert list(parts.frozen) == ["embedding"]
    assert "embedding" not in parts.params
    state = dataclasses.replace(init_state(state_config, 0), **parts._asdict())
    whole = state.all_params
    assert jax.tree.structure(whole) == jax.tree.structure(params)
    assert bits(whole) == bits(params)
    zeros = jax.tree.map(np.zeros_like, parts.params)
    changed = merge_trained(state, zeros)
    assert bits(changed["embedding"]) == bits(params["embedding"])
    assert not any(
        leaf.any() for name, part in changed.items() if name != "embedding" for leaf in jax.tree.leaves(part)
    )


def test_the_first_state_follows_from_the_seed(state_config):
    one, same, other = (init_state(state_config, seed) for seed in (3, 3, 4))
    assert bits(one) == bits(same)
    assert bits(one.params) != bits(other.params)
    assert bits(one.key) != bits(other.key)
    assert int(one.step) == 0
    given = jax.tree.map(np.ones_like, one.all_params)
    start = init_state(state_config, 3, given)
    assert all((np.asarray(leaf) == 1).all() for leaf in jax.tree.leaves(start.all_params))
    assert bits(start.key) == bits(one.key)


def test_shapes_are_known_without_an_array(state_config):
    def about(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

    assert about(abstract_state(state_config)) == about(init_state(state_config, 0))


def test_on_a_mesh_it_is_the_same_state_in_shards(tiny_experiment):
    experiment = tiny_experiment()
    state_config = StateConfig.of(experiment)
    shardings = shardings_on(experiment, devices=4, fsdp=4)
    state = init_sharded(state_config, 3, shardings)
    assert jax.tree.map(lambda x: x.sharding, state) == shardings
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)  # noqa: E731, a compiler may fuse the scaling
    jax.tree.map(close, state, init_state(state_config, 3))


def test_parameters_to_evaluate_are_those_of_the_state_without_averages(state_config):
    state = init_state(state_config, 0)
    assert bits(evaluation_params(state_config.optimizer, state)) == bits(state.all_params)
