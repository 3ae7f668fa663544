"""States: measured scales and medians, initial values, folded weights, places on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.inspection.features.autoencoders import Gated, TopK
from train.inspection.features.autoencoders.interface import decode
from train.inspection.features.training.settings import Adam, Autoencoder, Site
from train.inspection.features.training.state import centred, folded, init, measure, state_bytes
from train.inspection.features.training.stream import Block

SITE = Site("block_output", 0)


@pytest.fixture(scope="module")
def block():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2, 30, 5)).astype(np.float32) * 3 + 10
    weights = np.ones((2, 30), np.float32)
    weights[0, 7], x[0, 7] = 0.0, 1e4  # padding
    return Block({SITE: jnp.asarray(x)}, jnp.asarray(weights), jnp.arange(60))


def test_the_median_and_the_scale_of_activations(block):
    scale, median = jax.jit(lambda block: measure(block, SITE, True))(block)
    x, kept = np.asarray(block.activations[SITE], np.float64), np.asarray(block.weights_KR) > 0
    first = x[0][kept[0]]

    def distance(point):
        return np.linalg.norm(first - point, axis=1).sum()

    best = distance(np.asarray(median, np.float64))
    for direction in np.eye(5):
        for step in (-0.05, 0.05):
            assert distance(median + step * direction) > best
    np.testing.assert_allclose(np.mean(np.square((x[kept] - median) * scale)), 1, rtol=1e-4)
    assert measure(block, SITE, False)[0] == 1


@pytest.mark.parametrize("output_tap", [None, "ffn_output"])
def test_folded_parameters_compute_the_same_from_the_models_activations(block, output_tap):
    option = Autoencoder(name="a", width=12, architecture=TopK(k=3), output_tap=output_tap)
    measured = (jnp.float32(0.25), jnp.arange(5.0)), (jnp.float32(0.25 if output_tap is None else 4.0), jnp.ones(5))
    state = init(option, Adam(), (5, 5), measured, jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(6, 5)), jnp.float32)
    features = option.architecture.encode(state.params, centred(option, state.params, x * state.input_scale))
    params = folded(option, state)
    again = option.architecture.encode(params, centred(option, params, x))
    np.testing.assert_allclose(again, features, rtol=1e-4, atol=1e-6)
    whole = decode(state.params, features) / state.output_scale
    np.testing.assert_allclose(decode(params, again), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(state.params["decoder"], axis=1), 1, rtol=1e-5)
    if output_tap is None:
        np.testing.assert_array_equal(state.params["encoder"], state.params["decoder"].T)
    assert state_bytes({"a": state}) == 4 * (3 * (2 * 60 + 12 + 5) + 12 + 3)


def test_the_biases_of_a_transcoder_begin_where_the_median_gives_nothing():
    option = Autoencoder(name="a", width=12, architecture=Gated(), output_tap="ffn_output")
    measured = (jnp.float32(0.5), jnp.arange(5.0)), (jnp.float32(2.0), jnp.ones(4))
    params = init(option, Adam(), (5, 4), measured, jax.random.key(0)).params
    for name in ("gate_bias", "magnitude_bias"):
        np.testing.assert_allclose(0.5 * jnp.arange(5.0) @ params["encoder"] + params[name], 0, atol=1e-5)
    np.testing.assert_array_equal(params["log_magnitude"], 0)


def test_features_are_split_as_the_feed_forward_width(trained):
    from train.inspection.features.training.step import Programs
    from train.inspection.features.training.stream import ActivationStream
    from train.parallel.mesh import Mesh

    run = trained.run.on(Mesh(fsdp=2, tensor=4))
    widths = ActivationStream(run, trained.features).widths
    place = Programs(trained.features, 2, widths, run.layout).place["top"]
    assert place.params["encoder"].spec == jax.sharding.PartitionSpec(("fsdp",), ("tensor",))
    assert place.moments.mu["decoder"].spec == jax.sharding.PartitionSpec(("tensor",), ("fsdp",))
    assert place.silent_M.spec == jax.sharding.PartitionSpec(("tensor",))
