import math

import numpy as np
import pytest

from model.errors import UserError
from tests.train.lab.statistics.draws import DRAWS, coverage
from train.lab.statistics.speedup import log_ratio, speedup

STEPS = np.arange(100, 2001, 100)


def power_law(cost, shift=0.0):
    return 3.0 + shift + 8.0 * cost**-0.4


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_interval_covers(n):
    """Variants that run 1.2 times as fast along the curve of the base, with noise of seeds and of evaluations."""
    rng = np.random.default_rng(n)
    found = []
    for _ in range(DRAWS):
        shared, own = 0.02 * rng.normal(size=n), 1.2 * np.exp(0.05 * rng.normal(size=n))
        noise = 0.002 * rng.normal(size=(2, n, len(STEPS)))
        base = {s: (STEPS, power_law(STEPS, shared[s]) + noise[0, s]) for s in range(n)}
        other = {s: (STEPS, power_law(STEPS * own[s], shared[s]) + noise[1, s]) for s in range(n)}
        found.append(speedup(base, other))
    assert coverage(found, 1.2) == pytest.approx(0.95, abs=0.02)
    assert np.mean([np.log(each.ratio) for each in found]) == pytest.approx(math.log(1.2), abs=0.01)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.1, 3.0])
def test_a_curve_run_faster(factor):
    base, other = (STEPS, power_law(STEPS)), (STEPS, power_law(STEPS * factor))
    assert math.exp(log_ratio(base, other)) == pytest.approx(factor, rel=2e-3)
    assert log_ratio(other, base) == pytest.approx(-log_ratio(base, other))


def test_the_unit_is_that_of_the_curve():
    """Twice as many FLOPs a step halve the speed-up in FLOPs; the number of points and their place do not matter."""
    steps, few = (STEPS, power_law(STEPS)), np.array([150, 300, 500, 900, 1700, 2000])
    other = (2.0 * few, power_law(few * 3.0))
    assert math.exp(log_ratio(steps, other)) == pytest.approx(1.5, rel=0.03)


def test_a_lucky_evaluation_counts_with_its_neighbours():
    base = (STEPS, power_law(STEPS))
    loss = power_law(STEPS)
    loss[9] = power_law(4000.0)  # the running minimum would reach the target here, at half of the steps
    assert math.exp(log_ratio(base, (STEPS, loss))) == pytest.approx(1.0, abs=0.1)


def test_the_mean_is_geometric_over_common_seeds():
    base = {s: (STEPS, power_law(STEPS)) for s in range(3)}
    other = {s: (STEPS, power_law(STEPS * f)) for s, f in ((0, 2.0), (1, 0.5), (7, 9.0))}
    found = speedup(base, other)
    assert (found.n, found.ratio) == (2, pytest.approx(1.0, rel=1e-3))
    assert found.low < 1 < found.high


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({0: (STEPS, power_law(STEPS))}, "at least two seeds"),
        ({s: ([0, 100], [5.0, 4.0]) for s in range(2)}, "1 points of positive cost"),
        ({s: (STEPS, power_law(STEPS) + 20) for s in range(2)}, "no loss in common"),
    ],
)
def test_bad_input(curves, message):
    with pytest.raises(UserError, match=message):
        speedup({s: (STEPS, power_law(STEPS)) for s in range(2)}, curves)
