"""The k largest without sorting, against sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.inspection.features.autoencoders.selection import keep_largest


@pytest.mark.parametrize("axis", [1, -1, (0, 1)])
@pytest.mark.parametrize("k", [1, 4, 35])
def test_keeps_those_that_a_sort_puts_first(axis, k):
    x = np.maximum(np.random.default_rng(k).normal(size=(5, 7)), 0).astype(np.float32) * 1e-3
    rows = x.reshape(1, -1) if axis == (0, 1) else x
    k = min(k, rows.shape[1])
    expected = np.stack([np.where(row >= np.sort(row)[-k], row, 0) for row in rows]).reshape(x.shape)
    np.testing.assert_array_equal(keep_largest(jnp.asarray(x), k, axis), expected)


def test_the_gradient_flows_through_those_that_stay():
    grads = jax.grad(lambda x: (keep_largest(x, 2, 0) * jnp.arange(1.0, 5.0)).sum())(jnp.array([0.5, 0.1, 0.0, 0.7]))
    np.testing.assert_array_equal(grads, [1, 0, 0, 4])


def test_a_split_array_is_not_gathered():
    """On a mesh that splits the features, devices exchange counts alone: whole numbers for each token."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("tensor",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "tensor"))
    compiled = jax.jit(lambda x: keep_largest(x, 3, 1), in_shardings=place, out_shardings=place)
    text = compiled.lower(jax.ShapeDtypeStruct((2, 64), jnp.float32)).compile().as_text()
    assert "all-gather" not in text
    assert "s32[2,1]" in text
    assert "all-reduce" in text
