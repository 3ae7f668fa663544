import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.norms import LayerNorm, Norm, RMSNorm
from model.parameters.maker import Normal, ParameterMaker


def build(option, width=8, reductions="float32", seed=0):
    """Returns a norm with random weights, and these weights as NumPy arrays."""
    norm = Norm(option, (width,), ("embed",), ParameterMaker(jax.random.key(0), Normal(), 1, "float32"), reductions)
    rng = np.random.default_rng(seed)
    if norm.scale is not None:
        norm.scale = nnx.Param(rng.normal(1, 0.5, width).astype(np.float32))
    if norm.bias is not None:
        norm.bias = nnx.Param(rng.normal(0, 0.5, width).astype(np.float32))
    return norm


def by_hand(norm, x):
    """The equations of the two papers, one vector at a time, in float64."""
    option, out = norm.option, np.zeros(x.shape)
    for place in np.ndindex(x.shape[:-1]):
        v = np.asarray(x[place], np.float64)
        if isinstance(option, LayerNorm):
            v = (v - v.mean()) / np.sqrt(v.var() + option.epsilon)
        else:
            v = v / np.sqrt((v**2).mean() + option.epsilon)
        out[place] = v
        if norm.scale is not None:
            out[place] *= (getattr(option, "scale", None) == "zero") + np.asarray(norm.scale[...])
        if norm.bias is not None:
            out[place] += np.asarray(norm.bias[...])
    return out


OPTIONS = [
    LayerNorm(),
    LayerNorm(bias=False, epsilon=0.1),
    LayerNorm(scale=False),
    LayerNorm(scale=False, bias=False),
    RMSNorm(),
    RMSNorm(epsilon=0.1),
    RMSNorm(scale="zero"),
    RMSNorm(scale="none"),
]


@pytest.mark.parametrize("option", OPTIONS, ids=repr)
def test_values(option):
    norm = build(option)
    x = np.random.default_rng(1).normal(0.5, 2, (2, 3, 8)).astype(np.float32)
    np.testing.assert_allclose(norm(x), by_hand(norm, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("option", OPTIONS, ids=repr)
def test_gradient_is_that_of_the_equation(option):
    norm = build(option)
    rng = np.random.default_rng(2)
    x, towards = rng.normal(0.5, 2, (2, 3, 8)), rng.normal(size=(2, 3, 8))
    gradient = jax.grad(lambda x: jnp.sum(norm(x) * towards))(jnp.asarray(x, jnp.float32))
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-5
        slope = ((by_hand(norm, x + step) - by_hand(norm, x - step)) * towards).sum() / 2e-5
        assert float(gradient[place]) == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_gradient_of_the_weights():
    norm = build(LayerNorm())
    x = np.random.default_rng(3).normal(size=(4, 8)).astype(np.float32)

    def total(scale, bias):
        norm = build(LayerNorm())
        norm.scale, norm.bias = nnx.Param(scale), nnx.Param(bias)
        return jnp.sum(norm(x))

    scale, bias = norm.scale[...], norm.bias[...]
    plain = by_hand(norm, x) - bias
    d_scale, d_bias = jax.grad(total, argnums=(0, 1))(scale, bias)
    np.testing.assert_allclose(d_scale, (plain / scale).sum(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(d_bias, np.full(8, 4.0), rtol=1e-6)


def test_layernorm_ignores_shift_and_scale_and_rmsnorm_only_scale():
    x = np.random.default_rng(4).normal(size=(3, 8)).astype(np.float32)
    layer, rms = build(LayerNorm()), build(RMSNorm())
    np.testing.assert_allclose(layer(5 * x + 3), layer(x), atol=1e-4)
    np.testing.assert_allclose(rms(5 * x), rms(x), atol=1e-4)
    assert np.abs(rms(x + 3) - rms(x)).max() > 0.1


def test_parameters():
    assert build(LayerNorm()).bias is not None
    assert build(LayerNorm(bias=False)).bias is None
    assert build(RMSNorm()).bias is None
    assert build(LayerNorm(scale=False)).scale is build(RMSNorm(scale="none")).scale is None
    make = ParameterMaker(jax.random.key(0), Normal(), 1, "float32")
    fresh = Norm(LayerNorm(), (4,), ("head_dim",), make, "float32")
    assert fresh.scale.get_metadata()["spec"].axes == ("head_dim",)
    np.testing.assert_array_equal(fresh.scale[...], np.ones(4))
    np.testing.assert_array_equal(fresh.bias[...], np.zeros(4))
    np.testing.assert_array_equal(
        Norm(RMSNorm(scale="zero"), (4,), ("embed",), make, "float32").scale[...], np.zeros(4)
    )


@pytest.mark.parametrize("option", [LayerNorm(), RMSNorm()], ids=repr)
def test_two_axes_are_normalised_as_one(option):
    """The norm of the last two axes, heads and their width: QK-norm over a whole projection needs it."""
    make = ParameterMaker(jax.random.key(0), Normal(), 1, "float32")
    norm = Norm(option, (2, 4), ("heads", "head_dim"), make, "float32", num_axes=2)
    weights = np.random.default_rng(6).normal(1, 0.5, (2, 4)).astype(np.float32)
    norm.scale = nnx.Param(weights)
    flat = build(option)
    flat.scale = nnx.Param(weights.reshape(8))
    if flat.bias is not None:
        flat.bias = nnx.Param(np.zeros(8, np.float32))
    x = np.random.default_rng(7).normal(0.5, 2, (3, 8)).astype(np.float32)
    np.testing.assert_allclose(norm(x.reshape(3, 2, 4)).reshape(3, 8), by_hand(flat, x), rtol=1e-5, atol=1e-6)


def test_statistics_are_taken_in_the_reduction_dtype():
    x = jnp.asarray(256 + np.random.default_rng(5).normal(0, 4, (16, 8)), jnp.bfloat16)
    exact = build(LayerNorm(), reductions="float32")
    rough = build(LayerNorm(), reductions="bfloat16")
    reference = by_hand(exact, np.asarray(x.astype(jnp.float32)))
    assert exact(x).dtype == rough(x).dtype == jnp.bfloat16
    error = lambda norm: np.abs(norm(x).astype(jnp.float32) - reference).max()  # noqa: E731
    assert error(exact) < 0.02  # one rounding to bfloat16 at the end
    assert error(rough) > 0.05
