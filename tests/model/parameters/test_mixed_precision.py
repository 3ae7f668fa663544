"""Each use of a wide parameter has the value of a rounded copy, but an exact gradient where a copy's is rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.parameters.mixed_precision import cast_like, grouped_matmul, lookup, round_to_dtype, weight_einsum

RNG = np.random.default_rng(0)


def narrow(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.bfloat16)


def wide(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


INDEX, SIZES = np.array([[0, 3, 3], [1, 0, 0]]), np.array([2, 0, 4], np.int32)
X, ROWS = narrow(2, 3, 4), narrow(6, 4)
# Each use of a parameter, and its definition: the use takes any formats, the definition takes float64.
USES = {
    "weight_einsum": (
        wide(4, 5),
        lambda p: weight_einsum("BTD,DF->BTF", X, p),
        lambda p, x: np.einsum("btd,df->btf", x(X), p),
    ),
    "weight_einsum in float32": (
        wide(4, 5),
        lambda p: weight_einsum("BTD,DF->BTF", X, p, jnp.float32),
        lambda p, x: np.einsum("btd,df->btf", x(X), p),
    ),
    "grouped_matmul": (
        wide(3, 4, 5),
        lambda p: grouped_matmul(ROWS, p, SIZES),
        lambda p, x: np.einsum("md,mdf->mf", x(ROWS), p[np.repeat([0, 1, 2], SIZES)]),
    ),
    "lookup": (wide(4, 5), lambda p: lookup(p, INDEX, jnp.bfloat16), lambda p, x: p[INDEX]),
    "cast_like, added": (wide(4), lambda p: X + cast_like(p, X), lambda p, x: x(X) + p),
    "cast_like, multiplied": (wide(3, 1), lambda p: X * cast_like(p, X), lambda p, x: x(X) * p),
}


def exact(x):
    return np.asarray(x, np.float64)


def gradient(use, p, towards):
    """Returns the gradient of a weighted sum of a use's result."""
    return exact(jax.grad(lambda p: jnp.sum(use(p) * towards))(p))  # compiled, XLA may leave roundings out


@pytest.mark.parametrize("name", USES)
def test_the_value_is_that_of_a_rounded_copy(name):
    p, use, _ = USES[name]
    got, expected = use(p), use(p.astype(jnp.bfloat16))
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(exact(got), exact(expected))


@pytest.mark.parametrize("name", USES)
def test_the_gradient_is_not_rounded(name):
    p, use, written_out = USES[name]
    y = use(p)
    towards = jnp.asarray(RNG.normal(size=y.shape), y.dtype)
    slopes = []
    for place in np.ndindex(p.shape):  # it is linear in p: the difference of one entry by 1 is the derivative
        moved = exact(p)
        moved[place] += 1
        slopes.append((exact(towards) * (written_out(moved, exact) - written_out(exact(p), exact))).sum())
    expected = np.reshape(slopes, p.shape)
    # Products of two bfloat16 numbers are exact in float32, but what multiplies x elementwise is rounded before.
    tolerance = 2e-2 if name == "cast_like, multiplied" else 1e-6
    np.testing.assert_allclose(gradient(use, p, towards), expected, rtol=tolerance, atol=tolerance)
    copied = gradient(lambda p: use(p.astype(jnp.bfloat16)), p, towards)
    assert np.abs(copied - expected).max() > 1e-4  # a copy's gradient is rounded


@pytest.mark.parametrize("name", USES)
def test_sums_over_tokens_are_formed_in_the_format_of_the_parameter(name):
    p, use, _ = USES[name]
    y = use(p)
    program = jax.make_jaxpr(jax.grad(lambda p: jnp.sum((use(p) * y).astype(jnp.float32))))(p)
    sums = ("dot_general", "ragged_dot_general", "scatter-add", "reduce_sum")
    formed = [e for e in program.eqns if e.primitive.name in sums and e.outvars[0].aval.size == p.size]
    assert formed
    assert {e.outvars[0].aval.dtype for e in formed} == {jnp.dtype("float32")}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_where_formats_are_the_same_it_is_the_plain_operation(dtype):
    x, w, b = jnp.ones((2, 3), dtype), jnp.ones((3, 4), dtype), jnp.ones((4,), dtype)
    used = jax.make_jaxpr(lambda x, w, b: weight_einsum("BD,DF->BF", x, w) + cast_like(b, x))(x, w, b)
    plain = jax.make_jaxpr(lambda x, w, b: jnp.einsum("BD,DF->BF", x, w) + b)(x, w, b)
    assert str(used) == str(plain)
    assert str(jax.make_jaxpr(lambda w: lookup(w, INDEX, dtype))(w)) == str(jax.make_jaxpr(lambda w: w[INDEX])(w))
    sizes = np.array([1, 1], np.int32)
    experts = jnp.ones((2, 3, 4), dtype)
    used, plain = (
        jax.make_jaxpr(lambda x, w, f=f: f(x, w, sizes))(x, experts) for f in (grouped_matmul, jax.lax.ragged_dot)
    )
    assert str(used) == str(plain)


def test_the_gradient_of_x_passes_through():
    w, towards = wide(4, 5), narrow(2, 3, 5)
    got, expected = (
        jax.grad(lambda x, w=w: jnp.sum(weight_einsum("BTD,DF->BTF", x, w) * towards))(X)
        for w in (w, w.astype(jnp.bfloat16))
    )
    np.testing.assert_allclose(exact(got), exact(expected), rtol=1e-2, atol=1e-2)
    rows = narrow(6, 5)
    experts = wide(3, 4, 5)
    got, expected = (
        jax.grad(lambda x, w=w: jnp.sum(grouped_matmul(x, w, SIZES) * rows))(ROWS)
        for w in (experts, experts.astype(jnp.bfloat16))
    )
    np.testing.assert_allclose(exact(got), exact(expected), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rounded_parameter_keeps_its_format_and_its_exact_gradient(dtype):
    p, towards = wide(4, 5), wide(4, 5)
    value, pull = jax.vjp(lambda p: round_to_dtype(p, dtype), p)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, p.astype(dtype).astype(jnp.float32))
    np.testing.assert_array_equal(pull(towards)[0], towards)
