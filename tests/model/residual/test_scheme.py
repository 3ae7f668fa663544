import jax.numpy as jnp
import numpy as np
import pytest

from model.context import Context
from model.positions.absolute import NoPositions
from model.residual import Multipliers, Parallel, PostNorm, PreNorm, Reordered, Sandwich
from model.transformer import abstract_params

X = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)


@pytest.mark.parametrize("residual", [PreNorm(), Parallel()], ids=repr)
def test_what_a_sublayer_adds_is_scaled(small, stood_in, residual):
    block = stood_in(small(residual=residual, layer_scale=0.5, multipliers=Multipliers(residual=3.0)))
    gains = np.linspace(-1, 1, 16, dtype=np.float32), np.linspace(1, 3, 16, dtype=np.float32)
    np.testing.assert_array_equal(block.residual.mixer_gain[...], np.full(16, 0.5))
    block.residual.mixer_gain[...], block.residual.ffn_gain[...] = gains
    x = X.astype(np.float64)
    after = x + 3 * gains[0] * np.sin(2 * x + 1)
    read = 3 * after - 1 if residual == PreNorm() else 2 * x + 1
    got = block(X, Context(index_BT=jnp.arange(5)[None]), None)[0]
    np.testing.assert_allclose(got, after + 3 * gains[1] * np.cos(read), rtol=1e-5, atol=1e-5)


def test_the_stream_is_scaled_after_the_layer(small, stood_in):
    block = stood_in(small(residual=PreNorm(), stream_scale=0.5))
    np.testing.assert_array_equal(block.stream_scale[...], [0.5])
    block.stream_scale[...] = np.array([-1.5], np.float32)
    x = X.astype(np.float64)
    after = x + np.sin(2 * x + 1)
    got = block(X, Context(index_BT=jnp.arange(5)[None]), None)[0]
    np.testing.assert_allclose(got, -1.5 * (after + np.cos(3 * after - 1)), rtol=1e-5, atol=1e-5)


def test_a_feed_forward_layer_may_read_the_stream_itself(small, stood_in):
    """Its output has a norm all the same; the mixer has both norms."""
    block = stood_in(small(residual=Sandwich(ffn_input_norm=False)))
    x = X.astype(np.float64)
    after = x + 0.5 * np.sin(2 * x + 1) - 1
    got = block(X, Context(index_BT=jnp.arange(5)[None]), None)[0]
    np.testing.assert_allclose(got, after + 0.25 * np.cos(after) + 2, rtol=1e-5, atol=1e-5)


WITHOUT_FFN = {
    PreNorm(): lambda x: x + np.sin(2 * x + 1),
    PostNorm(alpha=1.5): lambda x: 2 * (1.5 * x + np.sin(x)) + 1,
    Sandwich(): lambda x: x + 0.5 * np.sin(2 * x + 1) - 1,
    Reordered(): lambda x: x + 0.5 * np.sin(x) - 1,
    Parallel(): lambda x: x + np.sin(2 * x + 1),
}
WITHOUT_ATTENTION = {
    PreNorm(): lambda x: x + np.cos(3 * x - 1),
    PostNorm(alpha=1.5): lambda x: 3 * (1.5 * x + np.cos(x)) - 1,
    Sandwich(): lambda x: x + 0.25 * np.cos(3 * x - 1) + 2,
    Reordered(): lambda x: x + 0.25 * np.cos(x) + 2,
    Parallel(): lambda x: x + np.cos(3 * x - 1),
}


@pytest.mark.parametrize("residual", WITHOUT_FFN, ids=repr)
def test_a_layer_without_a_feed_forward(small, assert_equation, residual):
    config = small(residual=residual, ffn=None)
    assert_equation(config, WITHOUT_FFN[residual])
    assert not [name for name in abstract_params(config)["blocks"]["residual"] if name.startswith("ffn")]


@pytest.mark.parametrize("residual", WITHOUT_ATTENTION, ids=repr)
def test_a_layer_without_a_mixer(small, assert_equation, residual):
    config = small(residual=residual, mixer=None, position=NoPositions())
    assert_equation(config, WITHOUT_ATTENTION[residual])
    assert not [name for name in abstract_params(config)["blocks"]["residual"] if name.startswith("mixer")]
