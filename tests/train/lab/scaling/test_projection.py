"""Variable projection against the truth, a full search, and its own gradient."""

import numpy as np
import pytest
from scipy.optimize import check_grad, least_squares

from model.errors import UserError
from tests.train.lab.scaling.laws import TRUTH, isoflop_points
from train.lab.scaling import projection
from train.lab.scaling.projection import fit_projection
from train.lab.scaling.surface import NAMES, Surface


def test_losses_without_noise_give_the_truth():
    found = fit_projection(isoflop_points())
    for name in NAMES:
        assert getattr(found, name) == pytest.approx(getattr(TRUTH, name), rel=1e-3)


def test_it_is_the_least_of_all_five_numbers():
    points = isoflop_points(budgets=4, noise=3e-3)
    found = fit_projection(points)

    def residuals(x):
        surface = Surface(x[0], np.exp(x[1]), np.exp(x[2]), x[3], x[4])
        return surface.loss(points.parameters, points.tokens) / points.loss - 1

    start = [TRUTH.E, np.log(TRUTH.A), np.log(TRUTH.B), TRUTH.alpha, TRUTH.beta]
    other = least_squares(residuals, start, xtol=1e-15, ftol=1e-15, gtol=1e-15, x_scale="jac", max_nfev=5000)
    own = residuals([found.E, np.log(found.A), np.log(found.B), found.alpha, found.beta])
    assert own @ own <= 2 * other.cost * (1 + 1e-6)


def test_no_coefficient_is_below_0():
    points = isoflop_points(truth=Surface(-0.5, 480.0, 2000.0, 0.35, 0.37))
    found = fit_projection(points)
    assert found.E == 0
    assert min(found.A, found.B) > 0


def test_the_gradient_is_that_of_the_value():
    problem = projection._Projected(isoflop_points(noise=3e-3), np.linspace(0.5, 2, 15))
    row = np.zeros(1, int)
    value, gradient = lambda x: problem(x[None], row)[0][0], lambda x: problem(x[None], row)[1][0]
    assert check_grad(value, gradient, np.array([0.3, 0.45])) < 1e-6
    assert value(np.array([11.0, 0.3])) == np.inf


def test_weights_count_runs_several_times():
    points = isoflop_points(noise=3e-3)
    weights = np.ones(15)
    weights[3] = 3
    found, repeated = fit_projection(points, weights), fit_projection(points.take([*range(15), 3, 3]))
    assert found.values() == pytest.approx(repeated.values(), rel=1e-3)


def test_too_few_runs_are_refused():
    with pytest.raises(UserError, match="5 runs are too few"):
        fit_projection(isoflop_points().take(range(5)))
