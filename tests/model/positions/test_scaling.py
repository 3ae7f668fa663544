"""Each scaling against its equation, pair by pair, and against numbers from its published code."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.positions.rotary import Rotary
from model.positions.scaling import (
    NTK,
    DynamicNTK,
    LinearScaling,
    Llama3Scaling,
    LongRoPE,
    YaRN,
    document_lengths,
)

SHAPES = [(10_000.0, 8), (10_000.0, 64), (500_000.0, 128), (150_000.0, 96)]


def scaled(option, theta, size, length=3):
    """Returns the angles per token for one row of `length` tokens, (R/2,)."""
    got = np.asarray(option.frequencies(theta, size, lambda: jnp.array([[length]])))
    assert got.dtype == np.float32
    return got.reshape(size // 2)


def plain(theta, size):
    return [theta ** (-2 * i / size) for i in range(size // 2)]


@pytest.mark.parametrize(("theta", "size"), SHAPES)
def test_linear(theta, size):
    got = scaled(LinearScaling(factor=2.5), theta, size)
    np.testing.assert_allclose(got, [f / 2.5 for f in plain(theta, size)], rtol=2e-7)


@pytest.mark.parametrize(("theta", "size"), SHAPES)
def test_ntk(theta, size):
    got = scaled(NTK(factor=8.0), theta, size)
    np.testing.assert_allclose(got, plain(theta * 8.0 ** (size / (size - 2)), size), rtol=2e-7)
    assert got[0] == 1
    assert got[-1] == pytest.approx(plain(theta, size)[-1] / 8)  # the slowest pair as if divided


@pytest.mark.parametrize(("theta", "size"), SHAPES)
@pytest.mark.parametrize("length", [1, 64, 65, 100, 1000])
def test_dynamic_ntk(theta, size, length):
    base = theta
    if length > 64:
        base *= (4.0 * length / 64 - 3.0) ** (size / (size - 2))
    got = scaled(DynamicNTK(factor=4.0, original_length=64), theta, size, length)
    np.testing.assert_allclose(got, plain(base, size), rtol=1e-6)


def test_the_length_is_known_only_when_the_program_runs():
    option = DynamicNTK(factor=4.0, original_length=64)
    run = jax.jit(lambda lengths: option.frequencies(1e4, 8, lambda: lengths))
    for length in (10, 65, 200):
        np.testing.assert_allclose(run(np.array([[length]]))[0, 0], scaled(option, 1e4, 8, length), rtol=1e-6)
    assert run._cache_size() == 1


def yarn(option, theta, size):
    """Section 3.2 pair by pair, with the ends of the ramp as in the paper's code."""

    def pair(rotations):
        return size * math.log(option.original_length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(option.beta_fast), pair(option.beta_slow)
    if option.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    for i, frequency in enumerate(plain(theta, size)):
        ramp = min(1, max(0, (i - low) / (high - low)))
        yield frequency * (1 - ramp) + frequency / option.factor * ramp


@pytest.mark.parametrize(("theta", "size"), SHAPES)
@pytest.mark.parametrize(
    "changes", [{}, {"truncate": False}, {"beta_fast": 16.0, "beta_slow": 2.0}, {"factor": 40.0}], ids=str
)
def test_yarn(theta, size, changes):
    option = YaRN(**{"factor": 8.0, "original_length": 4096} | changes)
    np.testing.assert_allclose(scaled(option, theta, size), list(yarn(option, theta, size)), rtol=2e-7)


def test_yarn_where_both_ends_of_its_ramp_meet():
    """All pairs are far faster than beta_fast, or far slower than beta_slow."""
    fast = YaRN(factor=8.0, original_length=10**9)
    np.testing.assert_allclose(scaled(fast, 10.0, 8), plain(10.0, 8), rtol=2e-7)
    slow = scaled(YaRN(factor=8.0, original_length=2), 1e4, 8)
    np.testing.assert_allclose(slow[1:], np.array(plain(1e4, 8))[1:] / 8, rtol=2e-7)


@pytest.mark.parametrize("truncate", [False, True])
def test_yarn_with_a_step_in_place_of_a_ramp(truncate):
    """Of 8 pairs the third makes 8.1 rotations in 512 tokens and the fourth 2.6, so 5 rotations lie between them."""
    option = YaRN(factor=8.0, original_length=512, beta_fast=5.0, beta_slow=5.0, truncate=truncate)
    assert not list(option.problems())
    base = np.array(plain(1e4, 16))
    rotations = 512 * base / (2 * math.pi)
    assert rotations[2] > 5 > rotations[3]
    np.testing.assert_allclose(scaled(option, 1e4, 16), np.where(rotations > 5, base, base / 8), rtol=2e-7)


def test_where_positions_of_earlier_tokens_change():
    long = LongRoPE(short_factors=(1.0, 1.0), long_factors=(3.0, 9.0), original_length=8, factor=4.0)
    for option, expected in ((long, [9]), (DynamicNTK(factor=4.0, original_length=8), [9, 10, 11])):
        angles = {n: scaled(option, 9.0, 4, n) for n in range(1, 12)}
        assert [n for n in range(2, 12) if not np.array_equal(angles[n], angles[n - 1])] == expected
        assert [n for n in range(1, 12) if Rotary(scaling=option).changes_at(n)] == expected
    for option in (None, NTK(factor=2.0)):
        assert not any(Rotary(scaling=option).changes_at(n) for n in range(1, 12))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0.1 * math.log(8) + 1),
        ({"attention_factor": 1.3}, 1.3),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0),
        ({"mscale": 0.707, "mscale_all_dim": 0.5}, (0.0707 * math.log(8) + 1) / (0.05 * math.log(8) + 1)),
        ({"factor": 1.0}, 1.0),
    ],
    ids=str,
)
def test_amplitude_of_yarn(changes, expected):
    assert YaRN(**{"factor": 8.0, "original_length": 512} | changes).amplitude == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("theta", "size"), SHAPES)
def test_llama3(theta, size):
    option = Llama3Scaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_length=2048)
    expected = []
    for frequency in plain(theta, size):
        wavelength = 2 * math.pi / frequency
        if wavelength > 2048 / 1.0:
            frequency /= 8.0
        elif wavelength >= 2048 / 4.0:
            smooth = (2048 / wavelength - 1.0) / (4.0 - 1.0)
            frequency = (1 - smooth) * frequency / 8.0 + smooth * frequency
        expected.append(frequency)
    np.testing.assert_allclose(scaled(option, theta, size), expected, rtol=2e-7)


@pytest.mark.parametrize(("theta", "size"), SHAPES)
def test_llama3_with_a_step_for_a_ramp(theta, size):
    option = Llama3Scaling(factor=16.0, low_frequency_factor=1.0, high_frequency_factor=1.0, original_length=64)
    expected = [f if 64 * f / (2 * math.pi) >= 1 else f / 16 for f in plain(theta, size)]
    np.testing.assert_allclose(scaled(option, theta, size), expected, rtol=2e-7)


@pytest.mark.parametrize("length", [1, 64, 65, 300])
def test_long_rope(length):
    short, long = (1.0, 1.5, 2.0, 4.0), (1.0, 3.0, 9.0, 60.0)
    option = LongRoPE(short_factors=short, long_factors=long, original_length=64, factor=32.0)
    factors = long if length > 64 else short
    expected = [f / factor for f, factor in zip(plain(1e4, 8), factors, strict=True)]
    np.testing.assert_allclose(scaled(option, 1e4, 8, length), expected, rtol=2e-7)
    assert option.amplitude == pytest.approx(math.sqrt(1 + math.log(32) / math.log(64)), rel=1e-12)


def test_long_rope_with_its_amplitude_given():
    option = LongRoPE(short_factors=(1.0,), long_factors=(2.0,), original_length=4096, attention_factor=1.19)
    assert option.amplitude == 1.19


@pytest.mark.parametrize(
    "option",
    [
        LinearScaling(factor=4.0),
        NTK(factor=4.0),
        DynamicNTK(factor=4.0, original_length=8),
        Llama3Scaling(factor=4.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_length=8),
    ],
    ids=lambda option: type(option).__name__,
)
def test_the_others_leave_lengths_alone(option):
    assert option.amplitude == 1


# Values of `transformers` 5.23 for heads of width 16 (modeling_rope_utils, ROPE_INIT_FUNCTIONS): theta, the option, the
# length of the sequence, the frequencies, the amplitude.
RECORDED = [
    (
        1e4,
        YaRN(factor=8.0, original_length=512),
        3,
        [1.0, 0.2470529, 0.05625, 0.01087033, 0.00125, 0.0003952847, 0.000125, 3.952847e-05],
        1.2079441541679836,
    ),
    (
        1e4,
        YaRN(factor=8.0, original_length=512, truncate=False),
        3,
        [1.0, 0.2989363, 0.06546508, 0.01151012, 0.00125, 0.0003952847, 0.000125, 3.952847e-05],
        1.2079441541679836,
    ),
    (
        1e4,
        YaRN(factor=8.0, original_length=512, beta_fast=16.0, beta_slow=2.0, mscale=1.0, mscale_all_dim=0.5),
        3,
        [1.0, 0.3162278, 0.07083333, 0.01317616, 0.00125, 0.0003952847, 0.000125, 3.952847e-05],
        1.094179988101349,
    ),
    (
        5e5,
        Llama3Scaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_length=8192),
        3,
        [1.0, 0.1939228, 0.03760603, 0.007292665, 0.000524846, 3.428102e-05, 6.64787e-06, 1.289173e-06],
        1.0,
    ),
    (
        1e4,
        DynamicNTK(factor=2.0, original_length=64),
        200,
        [1.0, 0.2495285, 0.06226445, 0.01553675, 0.003876863, 0.0009673875, 0.0002413907, 6.023386e-05],
        1.0,
    ),
]


@pytest.mark.parametrize(
    ("theta", "option", "length", "frequencies", "amplitude"), RECORDED, ids=lambda v: type(v).__name__
)
def test_recorded(theta, option, length, frequencies, amplitude):
    np.testing.assert_allclose(scaled(option, theta, 16, length), frequencies, rtol=1e-6)
    assert option.amplitude == pytest.approx(amplitude, rel=1e-12)


def test_the_length_of_every_tokens_document():
    segment_ids = jnp.array([[1, 1, 1, 2, 2, 0], [5, 4, 4, 4, 4, 4]])
    counted = [[3, 3, 3, 2, 2, 1], [1, 5, 5, 5, 5, 5]]
    np.testing.assert_array_equal(document_lengths(None, segment_ids, 6), counted)
    begin_again = jnp.array([[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(document_lengths(begin_again, segment_ids, 6), counted)
    cut = jnp.array([[7, 8, 9, 0, 1, 0], [3, 0, 1, 2, 3, 4]])  # the first of each row go on from earlier rows
    np.testing.assert_array_equal(document_lengths(cut, segment_ids, 6), [[10, 10, 10, 2, 2, 1], [4, 5, 5, 5, 5, 5]])
    np.testing.assert_array_equal(document_lengths(None, None, 6), [[6]])
    np.testing.assert_array_equal(document_lengths(begin_again, None, 6), [[3], [5]])
