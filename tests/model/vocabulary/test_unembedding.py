"""Logits against sums written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layout import ONE_DEVICE
from model.parameters.maker import Normal, ParameterMaker
from model.residual import Multipliers
from model.vocabulary.embedding import Embedding, Tied, Untied, unit_columns
from model.vocabulary.unembedding import LogitTransform, Unembedding

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4)).astype(np.float32)
W, BIAS = RNG.normal(size=(4, 7)).astype(np.float32), np.linspace(-1, 1, 7, dtype=np.float32)


@pytest.mark.parametrize("softcap", [None, 0.8])
@pytest.mark.parametrize("factor", [1.0, 0.25])
@pytest.mark.parametrize("bias", [None, BIAS], ids=["no bias", "bias"])
def test_logits(bias, factor, softcap):
    expected = np.zeros((2, 3, 7))
    for b, t, v in np.ndindex(2, 3, 7):
        added = 0.0 if bias is None else float(bias[v])
        expected[b, t, v] = factor * (np.dot(X[b, t], W[:, v].astype(np.float64)) + added)
    if softcap is not None:
        assert np.abs(expected).max() > softcap
        expected = softcap * np.tanh(expected / softcap)
    bias_V = None if bias is None else jnp.asarray(bias)
    transform = LogitTransform(factor=factor, softcap=softcap, dtype="float32")
    logits = Unembedding(w_DV=jnp.asarray(W), bias_V=bias_V, transform=transform).logits(jnp.asarray(X), ONE_DEVICE)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "option", [Tied(), Untied(), Untied(bias=True), Untied(unit_norm=True), Untied(bias=True, unit_norm=True)], ids=repr
)
def test_the_parameters_of_each_option(option):
    make = ParameterMaker(jax.random.key(0), Normal(std=1.0), 1, "float32")
    embedding = Embedding(option, 7, 4, None, Multipliers(), make)
    if embedding.output_bias is not None:
        embedding.output_bias[...] = jnp.asarray(BIAS)
    expected = np.zeros((2, 3, 7))
    for b, t, v in np.ndindex(2, 3, 7):
        column = embedding.table[...][v] if option == Tied() else embedding.output[...][:, v]
        norm = np.linalg.norm(np.asarray(column, np.float64)) if option != Tied() and option.unit_norm else 1.0
        added = float(BIAS[v]) if option != Tied() and option.bias else 0.0
        expected[b, t, v] = np.dot(X[b, t], np.asarray(column, np.float64)) / norm + added
    logits = embedding.unembedding("float32").logits(jnp.asarray(X), ONE_DEVICE)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_directions_in_bfloat16_are_computed_in_float32_and_have_gradients_where_a_vector_is_zero():
    w = jnp.asarray(np.random.default_rng(1).normal(size=(512, 7)), jnp.bfloat16)
    exact = np.asarray(w, np.float64) / np.linalg.norm(np.asarray(w, np.float64), axis=0)
    got = unit_columns(w)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), exact, rtol=2**-8)
    gradient = jax.grad(lambda w: unit_columns(w).astype(jnp.float32).sum())(w.at[:, 3].set(0))
    assert jnp.isfinite(gradient.astype(jnp.float32)).all()


def test_logits_are_accumulated_in_the_dtype_given():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 3, 512)), jnp.bfloat16)
    w = jnp.asarray(np.random.default_rng(2).normal(size=(512, 7)), jnp.bfloat16)
    exact = np.asarray(x[0], np.float64) @ np.asarray(w, np.float64)

    def logits(dtype):
        transform = LogitTransform(factor=1.0, softcap=None, dtype=dtype)
        return Unembedding(w_DV=w, bias_V=None, transform=transform).logits(x, ONE_DEVICE)[0]

    full, half = logits("float32"), logits("bfloat16")
    assert full.dtype == jnp.float32
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(full, exact, atol=1e-3)
    assert np.abs(half.astype(jnp.float32) - exact).max() > 1e-2


def test_the_gradient_of_a_bias_is_summed_up_in_its_own_format():
    """1,024 tokens, in bfloat16: there equal terms stop to count at the 257th."""
    transform = LogitTransform(factor=1.0, softcap=None, dtype="float32")
    x, w = jnp.zeros((4, 256, 1), jnp.bfloat16), jnp.zeros((1, 2))
    total = lambda bias: Unembedding(w_DV=w, bias_V=bias, transform=transform).logits(x, ONE_DEVICE).sum()  # noqa: E731
    np.testing.assert_array_equal(jax.grad(total)(jnp.zeros(2)) + 1, [1025, 1025])
