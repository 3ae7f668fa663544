"""A larger run is predicted before it is trained, once, and compared afterwards."""

import json

import pytest

from configs.shakespeare_char import experiment as shakespeare
from model.errors import UserError
from tests.train.lab.scaling.ladder.ladders import TRUTH, finish
from train.lab.scaling.ladder import held_out
from train.lab.scaling.ladder.held_out import fit_ladder, predict_once
from train.lab.scaling.ladder.plan import Planner
from train.lab.scaling.ladder.runs import record_plan
from train.lab.scaling.points import read_points


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """A planner and the folder of a ladder whose runs are finished."""
    folder, planner = tmp_path_factory.mktemp("ladder") / "runs", Planner(shakespeare)
    rungs = planner.isoflop([3e10, 1e11, 3e11], sizes=5, spread=3, ratio=2)
    record_plan(folder, "configs/shakespeare_char.py", [], rungs)
    for rung in rungs:
        finish(folder / rung.name, rung)
    return planner, folder


def test_a_prediction_is_written_once_and_then_compared(ladder, monkeypatch):
    planner, folder = ladder
    monkeypatch.setattr(held_out, "render", lambda analysis, title, about: f"{about}: {analysis.held_out[0].verdict}")
    said = []
    rung = predict_once(folder, planner, 3e12, 50, 0.9, said.append)
    written = json.loads((folder / "held_out-3e12.json").read_text())
    truth = TRUTH.loss(rung.parameters, rung.tokens)
    assert written["predicted"]["value"] == pytest.approx(truth, rel=1e-3)
    assert written["predicted"]["low"] <= written["predicted"]["value"] <= written["predicted"]["high"]
    assert (written["name"], written["level"], written["settings"]) == (rung.name, 0.9, list(rung.settings))
    assert rung.flops == pytest.approx(3e12, rel=0.01)
    assert said[0].startswith(f"predicted: {rung.name} will end at {written['predicted']['value']:.4f}")

    analysis, _ = fit_ladder(folder, at=[], draws=20, level=0.95)
    (waiting,) = analysis.held_out
    assert (waiting.measured, waiting.verdict) == (None, "not trained yet")
    assert analysis.at == [pytest.approx(3e11, rel=0.01), pytest.approx(3e12, rel=0.01)]

    # Once the run is there, nothing changes the prediction, not even other points.
    finish(folder / rung.name, rung, loss=1.02 * truth)
    assert predict_once(folder, planner, 3e12, 20, 0.5, said.append).name == rung.name
    assert json.loads((folder / "held_out-3e12.json").read_text()) == written
    assert len(said) == 1
    analysis, page = fit_ladder(folder, at=[1e13], draws=20, level=0.8)
    (one,) = analysis.held_out
    assert one.measured == pytest.approx(1.02 * truth)
    assert "outside its 90% interval" in one.verdict
    assert "+2.0" in one.verdict
    assert rung.name not in analysis.names  # it takes no part in the fit
    assert "outside its 90% interval" in page.read_text()

    # The files of the fit.
    points = read_points(folder / "points.csv")
    assert points.loss.tolist() == analysis.law.points.loss.tolist()
    fit = json.loads((folder / "fit.json").read_text())
    assert fit["numbers"]["alpha"]["value"] == pytest.approx(TRUTH.alpha, rel=0.05)
    assert (fit["level"], fit["runs"], fit["optima"][0]["flops"]) == (0.8, len(points), 1e13)
    assert f"{len(points)} of {len(points)} runs of configs/shakespeare_char.py" in page.read_text()
    assert analysis.envelope.parameters is not None


def test_bad_predictions_and_empty_ladders(ladder, tmp_path):
    planner, folder = ladder
    with pytest.raises(UserError, match=r"--held_out=1e\+11 is no larger than the largest run"):
        predict_once(folder, planner, 1e11, 20, 0.95, print)
    record_plan(tmp_path, "configs/a.py", [], planner.isoflop([3e10], 4, 2, 1))
    with pytest.raises(UserError, match="no run of .* is finished; train it first"):
        fit_ladder(tmp_path, at=[], draws=20, level=0.95)
    with pytest.raises(UserError, match="was predicted for another base"):
        predict_once(folder, Planner(shakespeare, rate_exponent=-1.0), 3e12, 20, 0.95, print)
