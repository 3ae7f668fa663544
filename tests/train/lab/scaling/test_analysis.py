"""All fits of one set of runs: what they are, what they warn of, and as JSON."""

import dataclasses
import json
import math

import pytest

from tests.train.lab.scaling.analyses import full_analysis
from tests.train.lab.scaling.laws import TRUTH, isoflop_points
from train.lab.scaling.analysis import analyse
from train.lab.scaling.isoflop import bias
from train.lab.scaling.projection import fit_projection
from train.lab.scaling.surface import Surface


def test_the_fits_are_those_of_the_points():
    found = full_analysis()
    points = found.law.points
    assert found.at == [1e20, 1e22]
    assert found.biases == [bias(points, found.law.surface, found.law.compute, flops) for flops in found.at]
    assert found.projection.values() == pytest.approx(fit_projection(points).values())
    assert [name for name, _, _ in found.approaches()] == ["1, envelope of curves", "2, IsoFLOP parabolas"]
    for _, parameters, tokens in found.approaches():
        best = TRUTH.optimum(1e19)
        assert (parameters(1e19), tokens(1e19)) == pytest.approx(best, rel=0.3)


def test_verdicts_of_held_out_runs():
    measured, waiting = full_analysis().held_out
    assert measured.verdict == "measured 2.9000, +3.57% of the prediction, outside its 95% interval"
    assert waiting.verdict == "not trained yet"


def test_warnings():
    warned = "\n".join(full_analysis().warnings())
    assert "1e+22 FLOPs are 100 times the largest run: the law may not hold there" in warned
    assert "a run read its text 7.5 times" in warned
    noisy = "\n".join(analyse(isoflop_points(noise=0.05), draws=60).warnings())
    assert "spans more than a factor of 2: more runs are needed" in noisy
    calm = isoflop_points(budgets=5, sizes=7)
    assert list(analyse(calm, at=[1e20], draws=20).warnings()) == []
    aside = isoflop_points(centre=20.0, sizes=7)
    warned = "\n".join(analyse(aside, at=[1e18], draws=20).warnings())
    assert "is beyond all trained sizes" in warned
    assert "3 of 3 budgets have no lowest loss among their sizes" in warned
    endless = isoflop_points(truth=Surface(1e-4, 480.0, 2000.0, 0.35, 0.37))
    assert "these runs do not show where the loss ends" in "\n".join(analyse(endless, draws=20).warnings())


def test_without_further_input_the_optima_are_those_of_the_largest_run_and_beyond():
    found = analyse(isoflop_points(), draws=20)
    assert found.at == [pytest.approx(1e20), pytest.approx(1e21)]
    assert (found.envelope, found.names[0], found.held_out) == (None, "run 1", [])


def test_the_content_of_a_file():
    found = full_analysis()
    content = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert content["numbers"]["E"]["value"] == found.law.surface.E
    assert content["numbers"]["E"]["standard_error"] == found.law.standard_error("E")
    assert content["optima"][1]["tokens"]["value"] == found.law.optimum(1e22)[1].value
    assert content["held_out"][0]["predicted"] == {"value": 2.8, "low": 2.75, "high": 2.85}
    assert content["approach_2_tokens_over_true"].keys() == {"1e+20", "1e+22"}
    assert content["warnings"] == list(found.warnings())
    held_out = [dataclasses.replace(found.held_out[1], measured=math.inf)]
    assert dataclasses.replace(found, held_out=held_out).as_json()["held_out"][0]["measured"] is None
