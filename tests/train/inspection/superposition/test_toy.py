"""Toy models: the loss by its definition, and the two phases in small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from train.inspection.superposition.toy import Models, Toy, draw, interference, losses, represented, train


def test_the_loss_by_its_definition():
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 4))
    x, importance = rng.uniform(size=(2, 5, 4)), rng.uniform(size=(2, 4))
    expected = [
        np.mean(
            [
                sum(
                    importance[k, i] * (x[k, j, i] - max(0, w[k, :, i] @ (w[k] @ x[k, j]) + b[k, i])) ** 2
                    for i in range(4)
                )
                for j in range(5)
            ]
        )
        for k in range(2)
    ]
    found = jax.jit(losses)(Models(jnp.asarray(w), jnp.asarray(b)), jnp.asarray(x), jnp.asarray(importance))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_inputs_are_as_sparse_as_asked_for():
    x = np.asarray(jax.jit(draw, static_argnums=(1, 3))(jax.random.key(0), 4000, jnp.array([0.0, 0.9]), 3))
    assert x.shape == (2, 4000, 3)
    np.testing.assert_allclose((x > 0).mean((1, 2)), [1.0, 0.1], atol=0.01)
    np.testing.assert_allclose(x[0].mean(), 0.5, atol=0.01)


def test_dense_features_get_a_dimension_each_and_sparse_ones_share():
    toy = Toy(features=6, dimensions=2, steps=700, batch=128, rate=2e-2, restarts=2)
    importance = np.tile(0.8 ** np.arange(6), (2, 1))
    found = train(toy, np.array([0.0, 0.98]), importance)
    dense, sparse = represented(found.w_Kmn)
    assert list(dense > 0.5) == [True, True, False, False, False, False]
    assert interference(found.w_Kmn[0])[:2].max() < 0.05
    assert (sparse > 0.5).sum() >= 4
    assert interference(found.w_Kmn[1])[sparse > 0.5].min() > 0.1


def test_measures_of_weights():
    w = np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 2.0]])
    np.testing.assert_array_equal(represented(w), [1, 1, 4])
    np.testing.assert_allclose(interference(w), [1, 1, 0])
    with pytest.raises(UserError, match=r"toy\.steps: must be at least 1"):
        train(Toy(steps=0), np.zeros(1), np.ones((1, 20)))
