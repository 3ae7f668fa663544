"""Dropout of attention weights: independent, in the right share, and the same for every kernel on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.kernels import attend
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, bidirectional, causal
from model.kernels.xla.blocks import Blocks
from model.kernels.xla.dropped import drop_weights, keys_of_heads
from model.kernels.xla.plain import Plain
from model.kernels.xla.tiles import Tiles
from model.layout import ONE_DEVICE
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ActivationAxes, Sharding, layout_of

RATE, KEY = 0.3, jax.random.key(4)


def kept(b=4, k=2, g=2, t=64, s=64, key=KEY, visibility=None):
    """Which weights are kept, (B, K, G, T, S)."""
    visibility = visibility or bidirectional(Coordinates(t), Coordinates(s))
    dropped = drop_weights(jnp.ones((b, k, g, t, s)), RATE, keys_of_heads(key, b, k * g), visibility)
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / (1 - RATE)], rtol=1e-6)
    return np.asarray(dropped) > 0


def test_each_weight_is_dropped_by_itself_with_its_probability():
    """The share of each slice of each axis, and of pairs of neighbours along each axis."""
    found = kept()
    for axis in range(5):
        others = tuple(other for other in range(5) if other != axis)
        each = found.size / found.shape[axis]
        assert np.all(np.abs(found.mean(others) - (1 - RATE)) < 4.5 * np.sqrt(RATE * (1 - RATE) / each))
        both, share = (found & np.roll(found, 1, axis)).mean(), (1 - RATE) ** 2
        assert abs(both - share) < 4 * np.sqrt(2 * share * (1 - share) / found.size)
    assert np.any(found != kept(key=jax.random.key(5)))


def test_a_block_drops_as_the_whole_does():
    """At a traced offset too; and rows and heads by their own numbers."""
    whole, seen = kept(), bidirectional(Coordinates(64))
    np.testing.assert_array_equal(kept(t=16, s=32, visibility=seen.sliced(48, 16, 8, 32)), whole[..., 48:64, 8:40])
    keys, ones = keys_of_heads(KEY, 4, 4), jnp.ones((4, 2, 2, 16, 64))
    at = jax.jit(lambda i: drop_weights(ones, RATE, keys, seen.sliced(i, 16, 0, 64)))
    np.testing.assert_array_equal(np.asarray(at(16)) > 0, whole[..., 16:32, :])
    np.testing.assert_array_equal(kept(b=2), whole[:2])
    np.testing.assert_array_equal(kept(k=1, g=4), whole.reshape(4, 1, 4, 64, 64))


def test_without_keys_nothing_is_dropped():
    x = jnp.ones((1, 1, 1, 2, 2))
    assert drop_weights(x, RATE, None, causal(Coordinates(2))) is x


B, T, N, H = 4, 64, 4, 8
RING = ActivationAxes(key_sequence=("context",))
MESHES = {
    "rows and heads": (Mesh(data=2, tensor=2), ActivationAxes()),
    "balanced parts of the sequence": (Mesh(data=1, context=4), ActivationAxes()),
    "a ring": (Mesh(data=1, context=2, tensor=2), RING),
}


def outputs(layout, kernel):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(B, T, n, H)).astype(np.float32) for n in (N, 2, 2))

    def attended(q, k, v):
        seen = causal(Coordinates(T))
        return attend(q, k, v, seen, Scoring(0.4), dropout=RATE, dropout_key=KEY, layout=layout, kernels=(kernel,))

    def run(q, k, v):
        y, pull = jax.vjp(attended, q, k, v)
        return y, *pull(jnp.cos(y))

    return jax.jit(run)(q, k, v)


@pytest.fixture(scope="module")
def plain():
    return outputs(ONE_DEVICE, Plain())


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", [Blocks(), Tiles(queries=16, keys=8)], ids=lambda kernel: kernel.name)
def test_every_kernel_drops_the_same_weights(kernel, plain):
    assert_same(outputs(ONE_DEVICE, kernel), plain)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.sweep] * (n == "rows and heads")) for n in MESHES])
def test_every_mesh_drops_the_weights_of_one_device(name, plain):
    mesh, activations = MESHES[name]
    layout = layout_of(make_mesh(mesh, jax.devices()[:4]), Sharding(activations=activations))
    assert_same(outputs(layout, Tiles(queries=16, keys=8)), plain)
