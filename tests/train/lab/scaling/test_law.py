"""Intervals of a law: coverage where the truth is known, and what they are made of."""

import numpy as np
import pytest

from model.errors import UserError
from tests.tiers import SWEEP
from tests.train.lab.scaling.laws import TRUTH, isoflop_points
from train.lab.scaling.huber import fit_huber
from train.lab.scaling.law import Interval, fit_law
from train.lab.scaling.points import Points
from train.lab.scaling.surface import NAMES

NOISE = 3e-3


def hits(draws, repeats, resampling, budgets, sizes):
    """How many of the 95% intervals hold the truth: of each number, of N* and the loss at ten times the largest C, and
    of a further run there."""
    total, flops = {}, 1e21
    best = TRUTH.optimum(flops)
    for seed in range(repeats):
        law = fit_law(isoflop_points(budgets, sizes, noise=NOISE, seed=seed), draws, resampling, seed=seed)
        n, _, loss = law.optimum(flops)
        further = TRUTH.loss(*best) * np.exp(NOISE * np.random.default_rng(10_000 + seed).normal())
        found = {name: law.interval(name).holds(getattr(TRUTH, name)) for name in NAMES}
        found["a"] = law.interval("a").holds(TRUTH.beta / (TRUTH.alpha + TRUTH.beta))
        found |= {
            "N*": n.holds(best[0]),
            "loss": loss.holds(TRUTH.loss(*best)),
            "run": law.predict(*best).holds(further),
        }
        for name, inside in found.items():
            total[name] = total.get(name, 0) + bool(inside)
    return total


@SWEEP
def test_intervals_hold_the_truth_as_often_as_they_say():
    """24 draws at 95%: fewer than 19 hits have a probability of 1e-3, for each of nine."""
    for name, count in hits(100, 24, "noise", 3, 5).items():
        assert count >= 19, name


@pytest.mark.sweep
def test_coverage_over_1000_draws():
    """Within 2% of nominal for the smallest design, in which nothing is left to large numbers."""
    for name, count in hits(200, 1000, "noise", 3, 5).items():
        assert 930 <= count <= 970, (name, count)


@pytest.mark.sweep
@pytest.mark.parametrize(("resampling", "budgets", "sizes"), [("noise", 5, 7), ("points", 9, 9)])
def test_coverage_of_larger_designs(resampling, budgets, sizes):
    """Fewer than 270 of 300 hits have a probability below 1e-3; resampled runs may cover more than they say."""
    for name, count in hits(200, 300, resampling, budgets, sizes).items():
        assert count >= 270, (name, count)


@pytest.fixture(scope="module")
def law():
    return fit_law(isoflop_points(noise=NOISE), 200)


def test_a_law_has_the_fit_and_its_spread(law):
    assert law.surface.values() == pytest.approx(fit_huber(law.points).values())
    assert law.interval("alpha").value == law.surface.alpha
    assert law.standard_error("alpha") == pytest.approx(np.std(law.draws.alpha, ddof=1))
    low, high = np.quantile(law.draws.alpha, [0.05, 0.95])
    assert law.interval("alpha", 0.9) == Interval(law.surface.alpha, low, high)
    assert law.interval("a").value + law.interval("b").value == pytest.approx(1)
    assert np.std(law.residuals) == pytest.approx(NOISE, rel=0.5)


def test_a_measurement_is_less_certain_than_the_law(law):
    loss, run = law.optimum(1e20)[2], law.predict(*TRUTH.optimum(1e20))
    assert run.high - run.low > 1.3 * (loss.high - loss.low)
    assert run.high - run.low > 3 * NOISE * loss.value


def test_an_interval_is_wider_further_away(law):
    widths = [one.high / one.low for one in (law.optimum(flops)[0] for flops in (1e19, 1e21, 1e24))]
    assert widths[0] < widths[1] < widths[2]


def test_few_runs_draw_noise_and_many_are_resampled(law):
    assert law.resampling == "noise"
    assert fit_law(isoflop_points(budgets=8, sizes=7, noise=NOISE), 20).resampling == "points"


def test_seeds_and_levels(law):
    again, other = fit_law(law.points, 200), fit_law(law.points, 200, seed=1)
    assert again.interval("alpha") == law.interval("alpha")
    assert other.interval("alpha") != law.interval("alpha")
    wide, narrow = law.interval("beta", 0.99), law.interval("beta", 0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_bad_input(law):
    with pytest.raises(UserError, match="5 resamples give no interval; take at least 20"):
        fit_law(law.points, 5)
    with pytest.raises(UserError, match="are too few"):
        fit_law(Points.of([1e6], [1e8], [3.0]))
