"""Approach 2: its parabolas, and its bias where the truth is known."""

import numpy as np
import pytest

from tests.train.lab.scaling.laws import TRUTH, isoflop_points
from train.lab.scaling.huber import fit_huber
from train.lab.scaling.isoflop import bias, fit_isoflop
from train.lab.scaling.points import Points
from train.lab.scaling.surface import SIX_ND, Surface


def test_parabolas_have_the_vertices_of_parabolas():
    """Losses that are parabolas of log N with vertices on a power law."""
    n, d, loss, best = [], [], [], lambda c: 0.1 * c**0.5
    for flops in (1e18, 1e19, 1e20):
        for size in best(flops) * np.array([0.3, 0.6, 1.5, 4]):
            n.append(size)
            d.append(flops / 6 / size)
            loss.append(3 + 0.1 * np.log(size / best(flops)) ** 2)
    points = Points.of(n, d, loss)
    found = fit_isoflop(points, SIX_ND)
    assert [one.best_parameters for one in found.parabolas] == pytest.approx([best(c) for c in (1e18, 1e19, 1e20)])
    assert found.parameters == pytest.approx((0.1, 0.5))
    assert found.tokens == pytest.approx((1 / 0.6, 0.5))
    assert found.parabolas[0].loss(points.parameters[:4]) == pytest.approx(points.loss[:4])


def test_its_bias_against_the_true_optimum():
    """None where alpha = beta and the sizes are centred; too many tokens where beta is larger, more with wider sizes.
    Approach 3 has none on the same runs."""
    symmetric = Surface(1.8, 480.0, 480.0, 0.36, 0.36)
    assert bias(isoflop_points(truth=symmetric), symmetric, SIX_ND, 1e21) == pytest.approx(1, abs=1e-6)
    truth = Surface(1.8, 480.0, 20_000.0, 0.25, 0.45)
    runs = [isoflop_points(truth=truth, spread=spread, sizes=7) for spread in (2, 5, 15)]
    found = [bias(points, truth, SIX_ND, 1e20) for points in runs]
    assert 1 < found[0] < 1.03 < found[1] < 1.1 < found[2] < 1.3
    for points in runs:
        assert fit_huber(points).optimum(1e20)[1] == pytest.approx(truth.optimum(1e20)[1], rel=1e-3)


def test_sizes_that_are_the_same_at_all_budgets_bend_its_power():
    """They lie above the optimum of small budgets and below that of large ones, so the error grows with C."""
    truth = Surface(1.8, 480.0, 20_000.0, 0.25, 0.45)
    sizes, budgets = truth.optimum(1e19)[0] * np.geomspace(1 / 30, 30, 9), np.repeat([1e18, 1e19, 1e20], 9)
    n = np.tile(sizes, 3)
    points = Points.of(n, budgets / 6 / n, truth.loss(n, budgets / 6 / n))
    found = [bias(points, truth, SIX_ND, flops) for flops in (1e20, 1e22, 1e24)]
    assert found == pytest.approx([1.22, 1.43, 1.66], abs=0.01)


def test_vertices_outside_the_sizes_do_not_count():
    points = isoflop_points(centre=8.0, spread=2.0)
    found = fit_isoflop(points, SIX_ND)
    assert len(found.parabolas) == 3
    assert not any(one.is_inside(points) for one in found.parabolas)
    assert (found.parameters, found.tokens) == (None, None)
    assert bias(points, TRUTH, SIX_ND, 1e20) is None


def test_a_budget_needs_three_sizes():
    points = isoflop_points().take([0, 1, 5, 6, 7, 8])
    assert [one.runs.tolist() for one in fit_isoflop(points, SIX_ND).parabolas] == [[2, 3, 4, 5]]


def test_a_parabola_that_opens_downwards_has_no_vertex():
    points = isoflop_points()
    upside_down = points.with_loss(6 - points.loss)
    assert not any(one.has_minimum or one.is_inside(upside_down) for one in fit_isoflop(upside_down, SIX_ND).parabolas)
