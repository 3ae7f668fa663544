"""The pictures of a law: what they draw is in them."""

import re

import numpy as np
import pytest

from tests.train.lab.scaling.analyses import full_analysis
from tests.train.lab.scaling.laws import isoflop_points
from train.lab.scaling.analysis import analyse
from train.lab.scaling.report import charts


@pytest.fixture(scope="module")
def drawn():
    """The calls of all charts on axes that only take notes, by title."""
    found = {}

    def note(name, draw, *, width, height, label):
        axes = Notes()
        draw(axes, charts.Palette(ink="i", muted="m", rule="r", train="t", validation="v", bad="b"))
        found[name] = axes
        return f"<svg>{label}</svg>"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "draw_svg", note)
        charts.isoflop_chart(full_analysis())
        charts.all_charts(full_analysis())
    return found


class Notes:
    """Axes that keep the lines, and take every other call."""

    def __init__(self):
        self.lines, self.limits, self.bands = [], None, []
        self.xaxis = self.yaxis = self

    def plot(self, x, y, style="-", **how):
        self.lines.append((np.atleast_1d(x), np.atleast_1d(y), style, how))

    def fill_between(self, x, low, high, **how):
        self.bands.append((x, low, high))

    def set_ylim(self, low, high):
        self.limits = (low, high)

    def __getattr__(self, name):
        return lambda *given, **how: None


def lines(axes, style, color):
    return [(x, y) for x, y, s, how in axes.lines if s == style and how.get("color") == color]


def test_a_curve_and_its_runs_for_each_budget(drawn):
    found = full_analysis()
    axes = drawn["isoflop"]
    dots = lines(axes, "o", "t")
    assert len(dots) == 3
    assert sorted(np.concatenate([y for _, y in dots])) == sorted(found.law.points.loss)
    assert [y[0] for _, y in lines(axes, "|", "m")] == [
        one.loss(np.array([one.best_parameters]))[0] for one in found.isoflop.parabolas
    ]
    (optima,) = lines(axes, "-", "v")
    assert optima[1] == pytest.approx(
        found.law.surface.loss(optima[0], found.law.surface.optimum(np.geomspace(1e18, 1e20, 60))[1])
    )
    assert axes.limits[0] < found.law.points.loss.min() < found.law.points.loss.max() < axes.limits[1]


def test_the_band_holds_the_line(drawn):
    found = full_analysis()
    for name in ("optimum-0", "optimum-1", "optimum-loss"):
        ((flops, low, high),) = drawn[name].bands
        (line,) = [y for x, y in lines(drawn[name], "-", "t")]
        assert np.all(low <= high)
        assert np.mean((low <= line) & (line <= high)) > 0.9
        assert flops[-1] >= max(found.at)
    low, high = (side[-1] for side in drawn["optimum-0"].bands[0][1:])
    assert high / low > drawn["optimum-0"].bands[0][2][40] / drawn["optimum-0"].bands[0][1][40]  # it widens


def test_held_out_runs_and_residuals(drawn):
    found = full_analysis()
    assert [(x[0], y[0]) for x, y in lines(drawn["optimum-loss"], "o", "v")] == [(1e21, 2.9)]
    assert [y.tolist() for _, y in lines(drawn["optimum-loss"], "-", "i")] == [[2.75, 2.85], [2.4, 2.6]]
    assert drawn["optimum-loss"].limits[0] < 2.4
    ((x, y),) = lines(drawn["residuals"], "o", "t")
    assert y == pytest.approx(100 * np.expm1(found.law.residuals))
    assert x.tolist() == found.law.points.flops.tolist()


@pytest.mark.filterwarnings("error")
def test_pictures_of_runs_without_budgets_are_drawn():
    """Every run has its own C, so there are no parabolas."""
    points = isoflop_points().take([0, 6, 12, 3, 9])
    more = isoflop_points(budgets=4).take([1, 8])
    joined = type(points)(
        *(np.concatenate([getattr(points, n), getattr(more, n)]) for n in ("parameters", "tokens", "loss", "flops"))
    )
    found = analyse(joined, draws=20)
    assert found.isoflop.parameters is None
    for chart in (charts.isoflop_chart(found), charts.optimum_chart(found, 0)):
        assert re.match(r"<svg viewBox", chart.svg)
