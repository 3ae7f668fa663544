import itertools
import math

import numpy as np
import pytest
from scipy import stats

from model.errors import UserError
from tests.train.lab.statistics.draws import DRAWS, coverage
from train.lab.statistics.decisions import decision_accuracy


def ladder(rng, variants, correlation):
    """The values of variants at two sizes, of three seeds each, whose means have this correlation."""
    small = rng.normal(size=variants)
    large = correlation * small + math.sqrt(1 - correlation**2) * rng.normal(size=variants)
    return tuple({f"v{i}": {0: v - 0.1, 1: v, 2: v + 0.1} for i, v in enumerate(size)} for size in (small, large))


@pytest.mark.parametrize("variants", [10, 25])
@pytest.mark.parametrize("correlation", [0.5, 0.8])
def test_the_interval_covers(variants, correlation):
    rng = np.random.default_rng(variants)
    found = [decision_accuracy(*ladder(rng, variants, correlation)) for _ in range(DRAWS)]
    truth = 0.5 + math.asin(correlation) / math.pi  # of a normal pair (Sheppard 1899)
    assert coverage(found, truth) == pytest.approx(0.95, abs=0.02)
    assert np.mean([each.share for each in found]) == pytest.approx(truth, abs=0.01)


@pytest.mark.parametrize("variants", [3, 5])
def test_with_few_variants_the_interval_is_too_wide_rather_than_too_narrow(variants):
    rng = np.random.default_rng(variants)
    found = [decision_accuracy(*ladder(rng, variants, 0.8)) for _ in range(DRAWS)]
    assert coverage(found, 0.5 + math.asin(0.8) / math.pi) >= 0.95


def test_the_share_is_that_of_kendall():
    rng = np.random.default_rng(0)
    small, large = ladder(rng, 12, 0.7)
    found = decision_accuracy(small, large)
    means = [[np.mean(list(values.values())) for values in group.values()] for group in (small, large)]
    assert found.share == pytest.approx((stats.kendalltau(*means).statistic + 1) / 2)
    pairs = list(itertools.combinations(range(12), 2))
    agree = [(means[0][i] < means[0][j]) == (means[1][i] < means[1][j]) for i, j in pairs]
    assert (found.share, found.pairs, found.variants) == (pytest.approx(np.mean(agree)), 66, 12)


def test_means_over_seeds_decide():
    small = {"a": {0: 1.0, 1: 5.0}, "b": {0: 2.0, 1: 3.0}, "c": {0: 9.0}}
    large = {"a": {4: 3.0}, "b": {4: 2.0}, "c": {4: 4.0}, "only here": {4: 0.0}}
    assert decision_accuracy(small, large).share == 1.0


def test_a_perfect_ladder_leaves_room_for_doubt():
    values = {f"v{i}": {0: float(i)} for i in range(8)}
    found = decision_accuracy(values, values)
    assert found.share == found.high == 1.0
    assert 0.4 < found.low < 0.75
    ties = decision_accuracy(values, {name: {0: 0.0} for name in values})
    assert ties.share == 0.5


def test_bad_input():
    with pytest.raises(UserError, match="at least three variants at both sizes, got a"):
        decision_accuracy({"a": {0: 1.0}, "b": {0: 1.0}}, {"a": {0: 1.0}})
    broken = {"a": {0: 1.0}, "b": {0: math.inf}, "c": {0: 2.0}}
    with pytest.raises(UserError, match="the variant 'b' has a value that is not finite"):
        decision_accuracy(broken, broken)
