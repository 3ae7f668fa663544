"""Fixtures that all tests of the model share: a small model, parameters drawn by NumPy, a compiled forward pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.context import Context
from model.feedforward.mlp import Gated
from model.layout import Layout
from model.parameters.maker import ParameterMaker
from model.transformer import abstract_params, forward


def small_config(**changes):
    """Two layers of width 16: rotary, RMSNorm, SwiGLU, two key heads for four query heads, tied."""
    base = ModelConfig(
        vocab_size=17,
        context_length=16,
        num_layers=2,
        width=16,
        mixer=GroupedQuery(num_heads=4, num_kv_heads=2),
        ffn=Gated(width=24),
    )
    return dataclasses.replace(base, **changes)


def drawn_params(config, seed=0, scale=0.3):
    """Random parameters of any model: biases are not 0 and norm weights are not 1, so that a test sees each of them."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if leaf.dtype == jax.numpy.int8:  # values of a quantised matrix
            return jax.numpy.asarray(rng.integers(-119, 120, leaf.shape), leaf.dtype)
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return jax.numpy.asarray(centre + scale * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract_params(config))


@functools.partial(jax.jit, static_argnums=(0, 1))
def jitted(config, taps, params, tokens, options):
    output = forward(config, params, tokens, taps=taps, **options)
    return output.logits_BTV, output.cache, output.taps


def compiled_forward(config, params, tokens, taps=(), **options):
    """Logits, cache and taps of a jitted forward pass, compiled once for each config and shape."""
    return jitted(config, tuple(taps), params, tokens, options)


class Recording(Layout):
    """Keeps the names and the shape of every activation that is laid out, in `placed`."""

    def __init__(self):
        object.__setattr__(self, "placed", [])

    def constrain(self, x, axes):
        assert x.ndim == len(axes)
        self.placed.append((axes, x.shape))
        return x


@pytest.fixture
def recording():
    return Recording()


@pytest.fixture(scope="session")
def small():
    return small_config


@pytest.fixture(scope="session")
def drawn():
    return drawn_params


@pytest.fixture(scope="session")
def run():
    return compiled_forward


@pytest.fixture(scope="session")
def tokens():
    return np.random.default_rng(1).integers(0, 17, (2, 12)).astype(np.int32)


def against_loop_(module, by_hand, length=9, width=8, scale=0.5):
    """A layer with parameters at random, and its gradient, against a loop in float64 over the tokens of one sequence.

    by_hand takes the weights by name and x (T, D) to y (T, D).
    """
    graph, state = nnx.split(module)
    rng = np.random.default_rng(0)
    drawn = lambda path, p: float(path[-1].key == "scale") + scale * rng.standard_normal(p.shape)  # noqa: E731
    weights = jax.tree_util.tree_map_with_path(drawn, nnx.to_pure_dict(state))
    x = rng.standard_normal((2, length, width))

    def layer(weights, x):
        return nnx.merge(graph, weights)(x, Context(index_BT=None), None)[0]

    # The gradient along one direction in the space of all parameters and inputs, by a difference of the loop.
    single = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)  # noqa: E731
    loop = lambda weights, x: np.stack([by_hand(weights, row) for row in x])  # noqa: E731
    expected = loop(weights, x)
    towards = rng.standard_normal(expected.shape)

    def total(weights, x):
        y = layer(weights, x)
        return (y * towards.astype(np.float32)).sum(), y

    slopes, y = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(single(weights), single(x))
    np.testing.assert_allclose(y, expected, rtol=2e-4, atol=2e-5)
    along = jax.tree.map(lambda a: rng.standard_normal(a.shape), (weights, x))
    moved = [jax.tree.map(lambda a, d, by=by: a + by * d, (weights, x), along) for by in (1e-5, -1e-5)]
    ahead, behind = ((loop(*inputs) * towards).sum() for inputs in moved)
    rise = sum(jax.tree.leaves(jax.tree.map(lambda s, d: (np.asarray(s, float) * d).sum(), slopes, along)))
    np.testing.assert_allclose(rise, (ahead - behind) / 2e-5, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="session")
def against_loop():
    return against_loop_


@pytest.fixture(scope="session")
def maker():
    """Makers of parameters by scheme, for layers that are built alone."""
    return lambda scheme: ParameterMaker(jax.random.key(0), scheme, 1, "float32")
