import math

import jax.numpy as jnp
import numpy as np
import pytest

from model.positions.absolute import Learned, NoPositions, Sinusoidal
from model.positions.alibi import ALiBi
from model.positions.rotary import Rotary, rotary_table, rotate
from model.positions.scaling import DynamicNTK, LinearScaling, YaRN


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
        rotated = np.asarray(rotate(np.stack([q, k])[None, :, None, :], table))[0, :, 0]
        return float(rotated[0] @ rotated[1])

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert abs(score(9, 4) - score(9, 5)) > 1e-3


def test_rotate_keeps_lengths_and_leaves_position_0_alone():
    x = np.random.default_rng(2).normal(size=(1, 4, 1, 6)).astype(np.float32)
    rotated = rotate(x, rotary_table(Rotary(), np.arange(4)[None], 6))
    np.testing.assert_allclose(np.linalg.norm(rotated, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-6)
    np.testing.assert_array_equal(rotated[:, 0], x[:, 0])
    assert np.abs(rotated[:, 1] - x[:, 1]).max() > 0.1


def test_rotate_works_in_float32_and_returns_the_dtype_given():
    x = np.random.default_rng(3).normal(size=(1, 2, 1, 8)).astype(np.float32)
    table = rotary_table(Rotary(), np.array([[1000, 1001]]), 8)
    assert table.cos.dtype == jnp.float32
    low = jnp.asarray(x, jnp.bfloat16)
    got = rotate(low, table)
    assert got.dtype == jnp.bfloat16
    exact = rotate(low.astype(jnp.float32), table).astype(jnp.bfloat16)
    np.testing.assert_array_equal(got.astype(jnp.float32), exact.astype(jnp.float32))


@pytest.mark.parametrize("option", [NoPositions(), Learned(), Sinusoidal(), ALiBi()], ids=repr)
def test_only_rotary_turns_anything(option):
    assert rotary_table(option, np.arange(3)[None], 4) is None
    x = np.ones((1, 3, 1, 4))
    assert rotate(x, None) is x


def by_hand(x, positions, rotated, interleaved, angle, amplitude=1.0):
    """Rotates every pair as a complex number; `angle` gives the angle of pair i for one token."""
    out = x.astype(np.float64)
    for b, t, n in np.ndindex(x.shape[:3]):
        for i in range(rotated // 2):
            one, other = (2 * i, 2 * i + 1) if interleaved else (i, i + rotated // 2)
            rotation = amplitude * complex(math.cos(positions[b, t] * angle(i)), math.sin(positions[b, t] * angle(i)))
            pair = complex(x[b, t, n, one], x[b, t, n, other]) * rotation
            out[b, t, n, one], out[b, t, n, other] = pair.real, pair.imag
    return out


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("fraction", "rotated"), [(1.0, 8), (0.75, 6), (0.5, 4), (0.25, 2)])
def test_a_fraction_rotates_in_either_pairing(fraction, rotated, interleaved):
    positions = np.array([[0, 1, 7], [4, 40, 0]])
    x = np.random.default_rng(4).normal(size=(2, 3, 2, 8)).astype(np.float32)
    option = Rotary(theta=100.0, fraction=fraction, interleaved=interleaved)
    assert option.rotated_dims(8) == rotated
    got = rotate(x, rotary_table(option, positions, 8))
    expected = by_hand(x, positions, rotated, interleaved, lambda i: 100.0 ** (-2 * i / rotated))
    np.testing.assert_allclose(got, expected, atol=2e-5)
    np.testing.assert_array_equal(got[..., rotated:], x[..., rotated:])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("scaling", [None, LinearScaling(factor=2.0)])
def test_the_fastest_pairs_of_a_whole_head(scaling, interleaved):
    """Half of the four pairs turn, with the wavelengths of a whole head, at the places of a whole head."""
    positions = np.array([[0, 1, 7], [4, 40, 0]])
    x = np.random.default_rng(9).normal(size=(2, 3, 2, 8)).astype(np.float32)
    option = Rotary(theta=100.0, fraction=0.5, rotated="fastest", interleaved=interleaved, scaling=scaling)
    factor = 1.0 if scaling is None else 2.0
    expected = by_hand(x, positions, 8, interleaved, lambda i: 100.0 ** (-i / 4) / factor if i < 2 else 0.0)
    np.testing.assert_allclose(rotate(x, rotary_table(option, positions, 8)), expected, atol=2e-5)


def test_the_fastest_pairs_need_the_amplitude_and_no_others():
    positions = np.arange(6).reshape(2, 3)
    x = np.random.default_rng(10).normal(size=(2, 3, 2, 8)).astype(np.float32)
    scaling = YaRN(factor=4.0, original_length=10**9, beta_fast=2.0, attention_factor=1.7)
    option = Rotary(theta=50.0, fraction=0.25, rotated="fastest", scaling=scaling)
    got, kept = rotate(x, rotary_table(option, positions, 8)), [1, 2, 3, 5, 6, 7]
    np.testing.assert_array_equal(got[..., kept], x[..., kept])
    first = by_hand(x[..., [0, 4]], positions, 2, False, lambda i: 1.0, 1.7)
    np.testing.assert_allclose(got[..., [0, 4]], first, atol=2e-5)


def test_a_fixed_order_of_dimensions_makes_one_pairing_of_the_other():
    positions = np.arange(5)[None]
    x = np.random.default_rng(5).normal(size=(1, 5, 2, 8)).astype(np.float32)
    half = rotate(x, rotary_table(Rotary(), positions, 8))
    apart = [0, 4, 1, 5, 2, 6, 3, 7]  # the positions of each pair's dimensions, pair by pair
    np.testing.assert_array_equal(
        rotate(x[..., apart], rotary_table(Rotary(interleaved=True), positions, 8)), half[..., apart]
    )


def test_the_amplitude_is_on_the_dimensions_that_turn_and_on_no_others():
    positions = np.arange(6).reshape(2, 3)
    x = np.random.default_rng(6).normal(size=(2, 3, 2, 8)).astype(np.float32)
    scaling = YaRN(factor=4.0, original_length=10**9, beta_fast=2.0, attention_factor=1.7)
    got = rotate(x, rotary_table(Rotary(theta=50.0, fraction=0.5, scaling=scaling), positions, 8))
    # In such a long sequence both pairs make many full rotations, so that neither frequency is divided.
    np.testing.assert_allclose(got, by_hand(x, positions, 4, False, lambda i: 50.0 ** (-i / 2), 1.7), atol=2e-5)


def test_a_partial_scaled_table_turns_slower():
    positions = np.arange(12).reshape(2, 6)
    x = np.random.default_rng(7).normal(size=(2, 6, 1, 12)).astype(np.float32)
    option = Rotary(theta=20.0, fraction=2 / 3, interleaved=True, scaling=LinearScaling(factor=2.5))
    expected = by_hand(x, positions, 8, True, lambda i: 20.0 ** (-i / 4) / 2.5)
    np.testing.assert_allclose(rotate(x, rotary_table(option, positions, 12)), expected, atol=2e-5)


def test_each_row_turns_by_its_own_length():
    """A row beside a longer row is rotated as if it were alone."""
    positions = np.stack([np.arange(6), np.arange(6) + 30])
    x = np.random.default_rng(8).normal(size=(2, 6, 1, 8)).astype(np.float32)
    option = Rotary(scaling=DynamicNTK(factor=2.0, original_length=8))
    both = rotate(x, rotary_table(option, positions, 8))
    for row in range(2):
        alone = rotate(x[row : row + 1], rotary_table(option, positions[row : row + 1], 8))
        np.testing.assert_array_equal(both[row], alone[0])
    np.testing.assert_allclose(both[0], rotate(x, rotary_table(Rotary(), positions, 8))[0], atol=1e-5)
    growth = 2.0 * 36 / 8 - 1
    expected = by_hand(x, positions, 8, False, lambda i: (1e4 * growth ** (8 / 6)) ** (-i / 4))
    np.testing.assert_allclose(both[1], expected[1], atol=2e-5)
