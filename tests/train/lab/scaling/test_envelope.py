"""Approach 1 on curves whose envelope is known."""

import numpy as np
import pytest

from tests.train.lab.scaling.laws import TRUTH
from train.lab.scaling.envelope import Curve, fit_envelope
from train.lab.scaling.surface import SIX_ND


def curve(size, first=1e17, last=1e21, noise=0.0):
    flops = np.geomspace(first, last, 400)
    loss = TRUTH.loss(size, flops / 6 / size)
    return Curve(size, flops, loss * np.exp(noise * np.random.default_rng(int(size)).normal(size=400)))


@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_the_envelope_of_ideal_curves_follows_the_optimum(noise):
    """Where every point of a curve is the loss of a run of that length, the envelope's law is that of the surface."""
    curves = [curve(size, noise=noise) for size in np.geomspace(3e7, 3e9, 24)]
    found = fit_envelope(curves, SIX_ND)
    assert found.parameters.exponent == pytest.approx(TRUTH.beta / (TRUTH.alpha + TRUTH.beta), abs=0.03)
    inside = (found.flops > 1e18) & (found.flops < 5e19)
    np.testing.assert_allclose(found.best_parameters[inside], TRUTH.optimum(found.flops[inside])[0], rtol=0.4)
    assert found.parameters(1e19) * found.tokens(1e19) * 6 == pytest.approx(1e19, rel=1e-3)
    assert np.all(np.diff(found.loss[inside]) < 1e-3)


def test_only_contested_budgets_count():
    found = fit_envelope([curve(1e8, 1e17, 5e20), curve(1e9, 1e18, 1e21)], SIX_ND)
    assert found.flops.min() >= 0.99e18
    assert found.flops.max() <= 5.05e20
    assert set(found.best_parameters) == {1e8, 1e9}


def test_curves_without_a_contest_give_no_law():
    for curves in ([], [curve(1e8)], [curve(1e8), curve(1e8)], [curve(1e8, 1e17, 1e18), curve(1e9, 2e18, 1e19)]):
        found = fit_envelope(curves, SIX_ND)
        assert found.parameters is None
        assert found.tokens is None


def test_of_several_runs_of_a_size_the_lowest_counts():
    worse = curve(1e8)._replace(loss=curve(1e8).loss + 1)
    found, same = (fit_envelope([*more, curve(1e8), curve(1e9)], SIX_ND) for more in ([worse], []))
    np.testing.assert_array_equal(found.best_parameters, same.best_parameters)


def test_values_that_are_not_finite_are_left_out():
    broken = curve(1e9)
    broken.loss[5] = np.nan
    assert np.isfinite(fit_envelope([curve(1e8), broken], SIX_ND).loss).all()
