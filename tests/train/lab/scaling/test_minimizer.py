"""Minima of many functions at once, against known ones and scipy's."""

import numpy as np
from scipy.optimize import minimize as minimize_one
from scipy.optimize import rosen, rosen_der

from train.lab.scaling.minimizer import minimize


def test_every_function_finds_its_own_minimum():
    """Bowls of different widths and places, which are evaluated together."""
    draw = np.random.default_rng(0)
    centres, widths = draw.normal(size=(50, 4)), np.exp(draw.normal(size=(50, 4)))
    calls = []

    def bowls(x, rows):
        calls.append(len(rows))
        away = x - centres[rows]
        return np.sum(widths[rows] * away**2, axis=1) + rows, 2 * widths[rows] * away

    found, values = minimize(bowls, np.zeros((50, 4)), tolerance=1e-15)
    np.testing.assert_allclose(found, centres, atol=1e-6)
    np.testing.assert_allclose(values, np.arange(50), atol=1e-9)
    assert len(calls) < 80
    assert calls[-1] < 50  # those that are done are evaluated no more


def test_a_curved_valley_as_scipy_finds_it():
    def valley(x, rows):
        return np.array([rosen(one) for one in x]), np.array([rosen_der(one) for one in x])

    starts = np.array([[-1.2, 1.0], [3.0, -2.0]])
    found, values = minimize(valley, starts, tolerance=1e-16)
    np.testing.assert_allclose(found, 1, atol=1e-5)
    assert all(
        value <= minimize_one(rosen, x, jac=rosen_der).fun + 1e-9 for value, x in zip(values, starts, strict=True)
    )


def test_an_absolute_value_has_its_corner():
    def corner(x, rows):
        return np.sum(np.abs(x - 2), axis=1), np.sign(x - 2)

    np.testing.assert_allclose(minimize(corner, np.array([[7.0], [-3.5]]))[1], 0, atol=1e-6)


def test_steps_out_of_the_domain_are_shortened_and_hopeless_starts_left():
    def barrier(x, rows):
        with np.errstate(all="ignore"):
            return x[:, 0] - np.log(x[:, 0]), 1 - 1 / x

    found, values = minimize(barrier, np.array([[1e-3], [50.0], [-1.0]]))
    np.testing.assert_allclose(found[:2, 0], 1, atol=1e-4)
    assert found[2, 0] == -1
    assert np.isnan(values[2])
