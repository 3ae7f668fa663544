import numpy as np
import pytest
from scipy import stats

from train.lab.statistics.power import power, seeds_to_show, smallest_shown


@pytest.mark.parametrize(("design", "n"), [("paired", 3), ("paired", 8), ("unpaired", 4)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_power_is_that_of_a_simulation(design, n, alpha):
    rng = np.random.default_rng(n)
    base, other = rng.normal(size=(20_000, n)), rng.normal(size=(20_000, n)) + 1.2
    if design == "paired":
        test = stats.ttest_1samp(other, 0.0, axis=1)
    else:
        test = stats.ttest_ind(other, base, axis=1)
    found = np.mean((test.pvalue <= alpha) & (test.statistic > 0))
    assert power(-1.2, n, alpha, design) == pytest.approx(found, abs=0.01)


def test_known_numbers_of_seeds():
    # Cohen 1988: d = 0.5 takes 34 pairs or 64 a group, d = 0.8 takes 15 pairs or 26 a group, for 80% at 0.05.
    assert [seeds_to_show(d, design="paired") for d in (0.5, 0.8)] == [34, 15]
    assert [seeds_to_show(d, design="unpaired") for d in (0.5, 0.8)] == [64, 26]


def test_the_number_is_the_smallest():
    for effect in (0.3, 1.0, 4.0, 50.0):
        n = seeds_to_show(effect, alpha=0.01)
        assert power(effect, n - 1, 0.01) < 0.8 <= power(effect, n, 0.01)


def test_no_number_shows_nothing():
    assert seeds_to_show(0.0) is None
    assert seeds_to_show(1e-5) is None
    assert power(1.0, 1) == 0.0


def test_smallest_shown_inverts_power():
    for n in (2, 3, 10):
        assert power(smallest_shown(n, 0.05), n, 0.05) == pytest.approx(0.8, abs=1e-6)
