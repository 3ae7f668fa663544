import math

import jax.numpy as jnp
import numpy as np
import pytest

from model.positions import Learned, NoPositions, Rotary, Sinusoidal, rotary_table, rotate, sinusoid
from model.transformer import abstract_params


def test_sinusoid_by_the_equation_of_the_paper():
    positions = np.array([[0, 1, 5, 100], [3, 2, 1, 0]])
    got = sinusoid(Sinusoidal(theta=500.0), positions, 6)
    for b, t in np.ndindex(positions.shape):
        for i in range(3):
            angle = positions[b, t] / 500 ** (2 * i / 6)
            assert float(got[b, t, 2 * i]) == pytest.approx(math.sin(angle), abs=2e-5)
            assert float(got[b, t, 2 * i + 1]) == pytest.approx(math.cos(angle), abs=2e-5)


def test_rotate_turns_each_pair_by_its_angle():
    positions = np.array([[0, 1, 7], [4, 4, 0]])
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 6)).astype(np.float32)
    got = rotate(x, rotary_table(Rotary(theta=100.0), positions, 6))
    for b, t, n in np.ndindex(2, 3, 2):
        for i in range(3):
            angle = positions[b, t] * 100.0 ** (-2 * i / 6)
            pair = complex(x[b, t, n, i], x[b, t, n, i + 3]) * complex(math.cos(angle), math.sin(angle))
            assert float(got[b, t, n, i]) == pytest.approx(pair.real, abs=1e-5)
            assert float(got[b, t, n, i + 3]) == pytest.approx(pair.imag, abs=1e-5)


def test_rotary_scores_depend_on_distance_alone():
    rng = np.random.default_rng(1)
    q, k = rng.normal(size=(2, 8)).astype(np.float32)

    def score(at, other):
        table = rotary_table(Rotary(), np.array([[at, other]]), 8)
        turned = np.asarray(rotate(np.stack([q, k])[None, :, None, :], table))[0, :, 0]
        return float(turned[0] @ turned[1])

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert abs(score(9, 4) - score(9, 5)) > 1e-3


def test_rotate_keeps_lengths_and_leaves_position_0_alone():
    x = np.random.default_rng(2).normal(size=(1, 4, 1, 6)).astype(np.float32)
    turned = rotate(x, rotary_table(Rotary(), np.arange(4)[None], 6))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-6)
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])
    assert np.abs(turned[:, 1] - x[:, 1]).max() > 0.1


def test_rotate_works_in_float32_and_returns_the_dtype_given():
    x = np.random.default_rng(3).normal(size=(1, 2, 1, 8)).astype(np.float32)
    table = rotary_table(Rotary(), np.array([[1000, 1001]]), 8)
    assert table[0].dtype == jnp.float32
    low = jnp.asarray(x, jnp.bfloat16)
    got = rotate(low, table)
    assert got.dtype == jnp.bfloat16
    exact = rotate(low.astype(jnp.float32), table).astype(jnp.bfloat16)
    np.testing.assert_array_equal(got.astype(jnp.float32), exact.astype(jnp.float32))


@pytest.mark.parametrize("option", [NoPositions(), Learned(), Sinusoidal()], ids=repr)
def test_only_rotary_turns_anything(option):
    assert rotary_table(option, np.arange(3)[None], 4) is None
    x = np.ones((1, 3, 1, 4))
    assert rotate(x, None) is x


def test_what_is_added_to_the_embedding(small, drawn, run):
    positions = np.array([[0, 1, 2, 3], [5, 0, 0, 15]], np.int32)
    tokens = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int32)

    def added(option):
        config = small(position=option, num_layers=1)
        params = drawn(config)
        taps = run(config, params, tokens, positions_BT=positions, taps=["embedding"])[2]
        return np.asarray(taps["embedding"]) - np.asarray(params["embedding"]["table"])[tokens], params

    learned, params = added(Learned())
    np.testing.assert_allclose(learned, np.asarray(params["position"]["table"])[positions], atol=1e-6)
    sinusoidal, _ = added(Sinusoidal(theta=50.0))
    np.testing.assert_allclose(sinusoidal, sinusoid(Sinusoidal(theta=50.0), positions, 16), atol=1e-6)
    for option in (NoPositions(), Rotary()):
        assert not added(option)[0].any()


def test_only_learned_positions_have_parameters(small):
    assert abstract_params(small(position=Learned()))["position"]["table"].shape == (16, 16)
    for option in (NoPositions(), Sinusoidal(), Rotary()):
        assert not abstract_params(small(position=option)).get("position")


def test_without_positions_earlier_tokens_are_a_set(small, drawn, run):
    tokens = np.array([[3, 1, 4, 5], [4, 3, 1, 5]], np.int32)  # the same three, in another order, before the last
    for option, alike in [(NoPositions(), True), (Learned(), False), (Sinusoidal(), False), (Rotary(), False)]:
        config = small(position=option, num_layers=1)
        last = np.asarray(run(config, drawn(config), tokens)[0])[:, -1]
        assert bool(np.abs(last[0] - last[1]).max() < 1e-5) is alike, option
