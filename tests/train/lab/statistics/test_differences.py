import math

import numpy as np
import pytest
from scipy import stats

from model.errors import UserError
from tests.train.lab.statistics.draws import DRAWS, NOISE, by_seed, coverage
from train.lab.statistics.differences import of_differences, paired, seed_noise, unpaired

BASE = {0: 3.31, 1: 3.28, 2: 3.35, 3: 3.30}
OTHER = {0: 3.27, 1: 3.26, 2: 3.30, 3: 3.29}


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_paired_is_the_paired_t_test(level):
    found = paired(BASE, OTHER, level)
    expected = stats.ttest_rel(list(OTHER.values()), list(BASE.values()))
    low, high = expected.confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p_value == pytest.approx(expected.pvalue)
    differences = np.array([-0.04, -0.02, -0.05, -0.01])
    assert (found.mean, found.deviation) == pytest.approx((differences.mean(), differences.std(ddof=1)))
    assert (found.n, found.level, found.design) == (4, level, "paired")


def test_pairs_by_seed_and_not_by_order():
    shuffled = {seed: OTHER[seed] for seed in (2, 0, 3, 1)}
    assert paired(BASE, shuffled) == paired(BASE, OTHER)
    assert paired(BASE, OTHER | {9: 100.0}) == paired(BASE, OTHER)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_unpaired_is_the_test_of_welch(level):
    other = {10: 3.2, 11: 3.5, 12: 3.1, 13: 3.25, 14: 3.4}
    found = unpaired(BASE, other, level)
    expected = stats.ttest_ind(list(other.values()), list(BASE.values()), equal_var=False)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(level)))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.n, found.design) == (4, "unpaired")


def test_equal_differences_are_certain():
    same = paired(BASE, dict(BASE))
    assert (same.mean, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    shifted = of_differences([0.5, 0.5, 0.5])
    assert (shifted.low, shifted.high, shifted.p_value) == (0.5, 0.5, 0.0)
    assert unpaired(dict.fromkeys(range(3), 2.0), dict.fromkeys(range(3), 3.0)).p_value == 0.0


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("noise", NOISE)
def test_the_paired_interval_covers(noise, n):
    rng = np.random.default_rng(n)
    # What the seed does to both runs is five times what it does to their difference.
    shared = 0.05 * rng.normal(size=(DRAWS, n))
    base, other = (value + shared + 0.01 * NOISE[noise](rng, (DRAWS, n)) for value in (3.0, 2.98))
    found = [paired(by_seed(a), by_seed(b)) for a, b in zip(base, other, strict=True)]
    assert coverage(found, -0.02) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_unpaired_interval_covers(n):
    rng = np.random.default_rng(n)
    base, other = 3.0 + 0.02 * rng.normal(size=(DRAWS, n)), 2.98 + 0.03 * rng.normal(size=(DRAWS, n))
    found = [unpaired(by_seed(a), by_seed(b)) for a, b in zip(base, other, strict=True)]
    assert coverage(found, -0.02) == pytest.approx(0.95, abs=0.02)


def test_seed_noise_is_pooled_within_variants():
    values = {"a": {0: 1.0, 1: 3.0}, "b": {0: 10.0, 1: 10.0, 2: 13.0}, "c": {0: 5.0}}
    assert seed_noise(values) == pytest.approx(math.sqrt((2 + 6) / 3))
    assert seed_noise({"a": {0: 1.0}, "b": {0: math.nan, 1: 2.0}}) is None


@pytest.mark.parametrize("function", [paired, unpaired])
def test_too_few_and_broken_values_are_refused(function):
    with pytest.raises(UserError, match="at least two seeds"):
        function({0: 1.0}, {0: 2.0})
    with pytest.raises(UserError, match="seed 2 has the value nan"):
        function(BASE, OTHER | {2: math.nan})
    with pytest.raises(UserError, match="level of an interval is 95"):
        function(BASE, OTHER, level=95)


def test_seeds_without_a_partner_do_not_pair():
    with pytest.raises(UserError, match=r"got none \(base: 0, 1; other: 2, 3\).*unpaired"):
        paired({0: 1.0, 1: 1.0}, {2: 1.0, 3: 1.0})
