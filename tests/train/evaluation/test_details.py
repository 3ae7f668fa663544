"""Accuracy, entropy, calibration and the loss against the position, against sums over single tokens."""

import json

import numpy as np
import pytest

from train.evaluation.details import (
    CONFIDENCE_BINS,
    DetailSums,
    TokenScores,
    measure_details,
    num_position_bins,
    position_range,
)

LENGTH = 20


def scores(count, seed=0):
    draw = np.random.default_rng(seed)
    return TokenScores(
        draw.exponential(2, count), draw.uniform(0, 3, count), draw.uniform(0, 1, count), draw.integers(0, 9, count)
    )


def sums_of(*parts):
    """The sums of one document; each part is its scores and the position of its first token."""
    sums = DetailSums.empty(LENGTH)
    for one, first in parts:
        sums.add(one, first)
    return sums


def test_bins_of_positions_are_powers_of_two():
    assert num_position_bins(LENGTH) == 6
    assert [position_range(b, LENGTH) for b in range(6)] == [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 20)]
    assert [num_position_bins(length) for length in (1, 2, 4, 5, 8)] == [1, 2, 3, 4, 4]


def test_measures_are_means_over_all_tokens():
    a, b, c = scores(20), scores(7, seed=1), scores(3, seed=2)
    found = measure_details([sums_of((a, 1), (b, 14)), sums_of((c, 1))], LENGTH)
    every = [np.concatenate(arrays) for arrays in zip(a, b, c, strict=True)]
    nll, entropy, confidence, rank = every
    position = np.concatenate([np.arange(1, 21), np.arange(14, 21), np.arange(1, 4)])
    assert found.accuracy.value == pytest.approx(np.mean(rank == 0))
    assert found.accuracy_top.value == pytest.approx(np.mean(rank < 5))
    assert found.entropy.value == pytest.approx(entropy.mean())
    for each in found.positions:
        inside = (position >= each.first) & (position <= each.last)
        assert (each.tokens, each.loss.value) == (inside.sum(), pytest.approx(nll[inside].mean()))
    assert sum(each.tokens for each in found.positions) == 30
    # The expected calibration error, bin by bin.
    error = 0.0
    for low in np.arange(CONFIDENCE_BINS) / CONFIDENCE_BINS:
        inside = (confidence >= low) & (confidence < low + 1 / CONFIDENCE_BINS)
        if inside.any():
            error += inside.sum() / 30 * abs(np.mean(rank[inside] == 0) - confidence[inside].mean())
    assert found.calibration_error == pytest.approx(error)


def test_a_calibrated_model_has_no_error_and_certainty_is_in_the_last_bin():
    one = TokenScores(np.zeros(4), np.zeros(4), np.array([0.5, 0.5, 1.0, 1.0]), np.array([0, 1, 0, 0]))
    found = measure_details([sums_of((one, 1))], LENGTH)
    assert found.calibration_error == 0
    assert [(b.tokens, b.accuracy) for b in found.bins] == [(2, 0.5), (2, 1.0)]
    assert found.bins[-1].high == 1
    assert found.accuracy.standard_error is None


def test_a_model_that_diverged_has_no_numbers_and_no_traceback():
    broken = TokenScores(*np.full((3, 4), np.nan), np.zeros(4, int))
    found = measure_details([sums_of((broken, 1)), sums_of((scores(5), 1))], LENGTH)
    assert np.isnan(found.entropy.value)
    assert np.isnan(found.positions[0].loss.value)


def test_sums_survive_json():
    sums = sums_of((scores(11), 3))
    again = DetailSums.from_json(json.loads(json.dumps(sums.as_json())))
    assert measure_details([again], LENGTH) == measure_details([sums], LENGTH)
    np.testing.assert_array_equal(again.bins, sums.bins)
