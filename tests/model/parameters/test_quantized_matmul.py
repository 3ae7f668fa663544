"""Products with quantised matrices: in integers against a NumPy loop, and independent of other rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layout import ONE_DEVICE
from model.parameters import quantized_matmul
from model.parameters.projections import matmul
from model.parameters.quantized_weights import MatrixLayout, QuantizedMatrix, QuantizedWeights, quantize
from model.parameters.specs import Spec

SPEC = Spec(role="residual", axes=("heads", "head_dim", "embed"), inputs=(0, 1), outputs=(2,))
OPTIONS = [
    QuantizedWeights(activations="int8"),
    QuantizedWeights(format="int4", group=32, activations="int8"),
    QuantizedWeights(),
    QuantizedWeights(format="int4", group=32),
]
NAMES = [f"{option.text} {option.activations}" for option in OPTIONS]


def multiplication(option, dtype=None):
    """The compiled product of x with a matrix (4, 16, 24), the values and scales of the matrix, and its layout."""
    layout = MatrixLayout(SPEC, (4, 16, 24), option)
    drawn = jax.random.normal(jax.random.key(1), (4, 16, 24))

    def multiply(x, arrays):
        return matmul(x, QuantizedMatrix(*arrays, layout), ONE_DEVICE, 2, dtype)

    return jax.jit(multiply), quantize(drawn, layout), layout


def product(option, x, dtype=None):
    """x times the matrix, and the matrix."""
    multiply, arrays, layout = multiplication(option, dtype)
    return multiply(x, arrays), np.asarray(QuantizedMatrix(*arrays, layout)[...]).reshape(64, 24)


@pytest.fixture(scope="module")
def x():
    drawn = np.random.default_rng(0).standard_normal((5, 4, 16)).astype(np.float32)
    return drawn * np.array([1, 30, 1e-3, 1, 0], np.float32)[:, None, None]


@pytest.mark.parametrize("option", OPTIONS, ids=NAMES)
def test_values(option, x, monkeypatch):
    y, w = product(option, x)
    rows = x.reshape(5, 64)
    if option.activations == "int8":
        scale = np.abs(rows).max(1, keepdims=True) / 127
        rows = np.round(rows / np.where(scale == 0, 1, scale)) * scale
    wanted = rows.astype(np.float64) @ w
    bound = 2e-6 * np.abs(rows).max(1, keepdims=True) * np.abs(w).sum(0)
    assert np.all(np.abs(y - wanted) <= bound)
    monkeypatch.setattr(quantized_matmul, "MOST_SUMS", 0)  # groups one after another
    np.testing.assert_allclose(product(option, x)[0], y, rtol=2e-6, atol=1e-6 * np.abs(y).max())


@pytest.mark.parametrize("option", OPTIONS, ids=NAMES)
def test_a_row_does_not_depend_on_its_neighbours(option, x):
    y = np.asarray(product(option, x)[0])
    loud = x.copy()
    loud[1:] *= 100
    np.testing.assert_array_equal(product(option, loud)[0][0], y[0])
    few = np.asarray(product(option, x[:2])[0])
    np.testing.assert_array_equal(product(option, x[:1])[0][0], few[0])
    if option.activations == "int8":
        np.testing.assert_array_equal(few, y[:2])
    else:
        np.testing.assert_allclose(few, y[:2], rtol=1e-5, atol=1e-5 * np.abs(y).max())


def test_one_row_is_as_exact_as_float32(x):
    y, w = product(QuantizedWeights(), x[:1])
    wanted = x[:1].reshape(1, 64).astype(np.float64) @ w
    assert np.abs(y - wanted).max() < 2.0**-22 * np.abs(x[0]).max() * np.abs(w).sum(0).max()


def test_the_compiled_program_multiplies_integers(x):
    multiply, arrays, _ = multiplication(OPTIONS[0])
    (dot,) = [line for line in multiply.lower(x, arrays).as_text().splitlines() if "dot_general" in line]
    assert dot.count("xi8>") == 2


def test_a_large_matrix_is_made_in_blocks(x, monkeypatch):
    """No array of the compiled program holds the whole matrix in float32."""
    monkeypatch.setattr(quantized_matmul, "FEW_ROWS", 0)
    y, _ = product(OPTIONS[2], x)
    monkeypatch.setattr(quantized_matmul, "BLOCK", 64 * 8)
    np.testing.assert_allclose(product(OPTIONS[2], x)[0], y, rtol=1e-5, atol=1e-4)
    multiply, arrays, _ = multiplication(OPTIONS[2])
    text = multiply.lower(x, arrays).compile().as_text()
    assert "f32[4,16,8]" in text
    assert "f32[4,16,24]" not in text
    assert "f32[64,24]" not in text


def test_the_result_has_the_format_of_x_or_the_one_asked_for(x):
    for option in OPTIONS[:3]:
        assert product(option, x.astype(jnp.bfloat16))[0].dtype == jnp.bfloat16
        assert product(option, x[:1].astype(jnp.bfloat16), jnp.float32)[0].dtype == jnp.float32
