"""The law's optimum against a search, and the operations of runs."""

import numpy as np
import pytest

from tests.train.lab.scaling.laws import TRUTH
from train.lab.scaling.points import Points
from train.lab.scaling.surface import SIX_ND, Compute, PowerLaw, Surface


@pytest.mark.parametrize("compute", [SIX_ND, Compute(9.0, 0.94)])
def test_the_optimum_is_the_least_loss_along_a_budget(compute):
    for flops in (1e18, 3e21):
        sizes = np.geomspace(1e6, 1e12, 200_001)
        losses = TRUTH.loss(sizes, compute.tokens(flops, sizes))
        n, d = TRUTH.optimum(flops, compute)
        assert n == pytest.approx(sizes[np.argmin(losses)], rel=1e-3)
        assert compute.coefficient * n**compute.exponent * d == pytest.approx(flops)


def test_with_six_n_d_it_is_equation_4_of_hoffmann():
    g = (TRUTH.alpha * TRUTH.A / (TRUTH.beta * TRUTH.B)) ** (1 / (TRUTH.alpha + TRUTH.beta))
    n, d = TRUTH.optimum(1e21)
    assert n == pytest.approx(g * (1e21 / 6) ** (TRUTH.beta / (TRUTH.alpha + TRUTH.beta)))
    assert d == pytest.approx((1e21 / 6) ** (TRUTH.alpha / (TRUTH.alpha + TRUTH.beta)) / g)


def test_draws_are_arrays():
    draws = Surface(*(np.array([value, 1.1 * value]) for value in TRUTH.values()))
    assert draws.loss(1e9, 2e10)[0] == TRUTH.loss(1e9, 2e10)
    assert draws.optimum(1e20)[0][0] == TRUTH.optimum(1e20)[0]
    assert draws.values().shape == (5, 2)
    assert TRUTH.as_dict() == {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37}


def test_the_operations_of_runs():
    n, d = np.array([1e6, 1e7, 1e8]), np.array([3e8, 1e8, 5e9])
    fitted = Compute.fitted(Points.of(n, d, np.ones(3), 9 * n**0.94 * d))
    assert fitted == pytest.approx((9, 0.94))
    assert Compute.fitted(Points.of([2e6] * 3, d, np.ones(3), 7 * 2e6 * d)) == pytest.approx((7, 1))


def test_a_power_law():
    law = PowerLaw.through([1, 10, 100], [3, 3 * 10**0.5, 30])
    assert law == pytest.approx((3, 0.5))
    assert law(10_000) == pytest.approx(300)
