"""The cross-entropy of whole logits, against its definition in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from model.vocabulary.cross_entropy import cross_entropy

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(3, 5, 11)) * 4
TARGETS = RANDOM.integers(0, 11, (3, 5))


def reference(logits, targets):
    """-log p(target) and log Z in float64, straight from the definition."""
    z = np.exp(logits).sum(-1)
    p = np.take_along_axis(np.exp(logits), targets[..., None], -1)[..., 0] / z
    return -np.log(p), np.log(z)


def test_by_hand():
    # Odds of 1 : 2 : 5 make probabilities of 1/8, 2/8, 5/8, and Z is 8.
    logits = jnp.log(jnp.array([[[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]]))
    nll, log_z = cross_entropy(logits, jnp.array([[0, 2]]))
    np.testing.assert_allclose(nll, [[np.log(8), np.log(8 / 5)]], rtol=1e-6)
    np.testing.assert_allclose(log_z, np.log([[8, 8]]), rtol=1e-6)


def test_against_float64():
    nll, log_z = cross_entropy(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(TARGETS))
    expected, expected_z = reference(LOGITS, TARGETS)
    assert nll.dtype == log_z.dtype == jnp.float32
    np.testing.assert_allclose(nll, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_z, expected_z, rtol=1e-5)


def test_large_logits_do_not_overflow():
    nll, log_z = cross_entropy(jnp.array([[[3e4, 0.0]]]), jnp.array([[1]]))
    assert float(nll[0, 0]) == float(log_z[0, 0]) == 3e4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_logits_are_summed_in_float32(dtype):
    logits = jnp.asarray(np.tile(LOGITS, (1, 1, 40)), dtype)
    nll, _ = cross_entropy(logits, jnp.asarray(TARGETS))
    expected, _ = reference(np.asarray(logits, np.float64), TARGETS)
    assert nll.dtype == jnp.float32
    np.testing.assert_allclose(nll, expected, rtol=1e-5, atol=1e-5)
