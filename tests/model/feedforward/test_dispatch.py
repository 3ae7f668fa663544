import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.feedforward.dispatch import Capacity, dispatch_dropless, dispatch_with_capacity
from model.layout import Layout

E, D = 5, 3


@pytest.fixture(scope="module")
def case():
    """Two rows of seven tokens, two experts for each token; the last expert gets no tokens."""
    draw = np.random.default_rng(0)
    chosen = np.stack([[draw.permutation(4)[:2] for _ in range(7)] for _ in range(2)]).astype(np.int32)
    x, scale = draw.normal(size=(2, 7, D)), draw.normal(size=(2, 7, 2))
    w, b = draw.normal(size=(E, D, D)), draw.normal(size=(E, D))
    return chosen, *(a.astype(np.float32) for a in (x, scale, w, b))


def one_by_one(chosen, x, scale, w, b):
    y = np.zeros((*chosen.shape, D))
    for row, token, rank in np.ndindex(chosen.shape):
        expert = chosen[row, token, rank]
        y[row, token, rank] = scale[row, token, rank] * x[row, token] @ w[expert] + b[expert]
    return y


def up(rows, product):
    return product(rows, "up")


def dispatched(way, chosen, x, scale, weight, w, b):
    inputs = (*map(jnp.asarray, (x, chosen)), scale, weight, {"up": jnp.asarray(w), "up_bias": jnp.asarray(b)}, up)
    if isinstance(way, Capacity):
        return dispatch_with_capacity(way, *inputs, Layout())
    return dispatch_dropless(*inputs, Layout())


def test_dropless_is_a_loop_over_tokens(case):
    chosen, x, scale, w, b = case
    for on_input, on_output in ((None, None), (scale, None), (None, scale)):
        ones = np.ones_like(scale)
        each = one_by_one(chosen, x, ones if on_input is None else on_input, w, b)
        expected = np.sum(each if on_output is None else each * on_output[..., None], axis=2)
        y = dispatched("dropless", chosen, x, on_input, on_output, w, b)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_capacity_is_a_loop_that_counts(case):
    chosen, x, scale, w, b = case
    expected, dropped = one_by_one(chosen, x, scale, w, b), np.zeros(chosen.shape, bool)
    capacity = 3  # ceil(1.0 * 2 * 7 / 5)
    for row in range(2):
        load = np.zeros(E, int)
        for token, rank in np.ndindex(chosen.shape[1:]):
            expert = chosen[row, token, rank]
            dropped[row, token, rank] = load[expert] >= capacity
            load[expert] += 1
    weight = np.random.default_rng(2).normal(size=chosen.shape).astype(np.float32)
    y, got_dropped = dispatched(Capacity(factor=1.0), chosen, x, scale, weight, w, b)
    assert 0 < dropped.sum() < dropped.size / 2
    np.testing.assert_array_equal(got_dropped, dropped)
    np.testing.assert_allclose(y, np.sum(expected * (weight * ~dropped)[..., None], axis=2), rtol=1e-5, atol=1e-5)


def test_with_slots_for_all_nothing_is_dropped(case):
    chosen, x, scale, w, b = case
    for scales in (scale, None):
        y, dropped = dispatched(Capacity(factor=2.5), chosen, x, scales, None, w, b)
        assert not dropped.any()
        expected = dispatched("dropless", chosen, x, scales, None, w, b)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.0, 16), (1.25, 20), (0.01, 1), (100.0, 64)], ids=["even", "spare", "one", "all"]
)
def test_slots(factor, expected):
    assert Capacity(factor=factor).slots(num_experts=8, top_k=2, length=64) == expected


def test_gradients_of_both_are_those_of_the_loop(case):
    chosen, x, scale, w, b = case
    towards = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)

    def loss(way):
        def value(x, scale, w, b):
            if way == "dropless":
                y = dispatched(way, chosen, x, scale, scale, w, b)
            elif way == "slots":
                y, _ = dispatched(Capacity(factor=9.0), chosen, x, scale, scale, w, b)
            else:
                each = jnp.einsum("BTR,BTD,BTRDF->BTRF", scale, x, w[chosen]) + b[chosen]
                y = jnp.sum(each * scale[..., None], axis=2)
            return jnp.sum(y * towards)

        return jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(x, scale, w, b)

    for way in ("dropless", "slots"):
        for got, expected in zip(loss(way), loss("gathered"), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert not loss("dropless")[2][4].any()  # the gradient of the expert without tokens
