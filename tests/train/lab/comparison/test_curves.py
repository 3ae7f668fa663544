"""Curves of made-up lines: their axes, and where a loss is reached."""

import types

import numpy as np
import pytest

from train.lab.comparison.curves import Curve, CurvePair, curve, curve_pairs, training_times
from train.report.run import RunData

NOTHING = {
    "parameters": [],
    "evaluation": {},
    "sessions": [],
    "status": {},
    "time_spent": [],
    "profile": {},
    "notes": [],
}


def run_of(losses, every=1, seconds=(), evaluations=()):
    """The data of a run with these training losses; `seconds` are (step, seconds, session)."""
    train = [{"kind": "train", "step": every * n, "loss": x, "tokens": 10 * every * n} for n, x in enumerate(losses, 1)]
    throughput = [{"step": step, "seconds": time, "session": session} for step, time, session in seconds]
    evals = [{"kind": "eval", "step": s, "loss": x, "bits_per_byte": x / 2} for s, x in evaluations]
    empty = {"named_evaluations": [], "statistics": [], "samples": [], "config": {}}
    return RunData(folder=None, train=train, evaluations=evals, throughput=throughput, **empty, **NOTHING)


def test_tokens_and_seconds_are_those_of_the_steps_over_all_sessions():
    run = run_of([5.0, 4.0, 3.0], 10, seconds=[(10, 2.0, 1), (20, 3.0, 1), (30, 1.5, 2)])
    steps, seconds = training_times(run)
    assert (steps.tolist(), seconds.tolist()) == ([10, 20, 30], [2.0, 3.0, 4.5])
    found = curve(run, "loss", "train")
    assert found.seconds.tolist() == [2.0, 3.0, 4.5]
    assert found.tokens.tolist() == [100, 200, 300]
    evaluated = curve(run_of([5.0] * 3, 10, [(30, 3.0, 1)], [(15, 4.0), (40, 1.0)]), "loss", "eval")
    assert evaluated.seconds[0] == pytest.approx(1.5)
    assert np.isnan([evaluated.seconds[1], evaluated.tokens[1]]).all()
    assert np.isnan(curve(run_of([1.0]), "loss", "train").seconds).all()


def test_the_same_loss_is_reached_by_both():
    pair = CurvePair(
        "x", *(curve(run_of(losses), "loss", "train") for losses in ([5.0, 3.0, 2.0, 1.0], [5.0, 4.0, 2.0]))
    )
    loss, a, b = pair.reached()
    assert (loss, a["steps"], b["steps"], a["tokens"]) == (2.0, 3.0, 3.0, 30.0)
    assert [row[0] for row in pair.rows()] == [1, 2, 3]
    assert pair.rows()[1] == (2, 3.0, 4.0)


def test_a_loss_is_reached_between_two_evaluations():
    """B passes the 2.0 of A's end a quarter of the way from step 20 to step 30; a run may begin below a loss."""
    seconds = [(30, 3.0, 1)]
    a, b = (run_of([5.0] * 3, 10, seconds, [(10, 4.0), (20, x), (30, y)]) for x, y in ((3.0, 2.0), (2.25, 1.25)))
    loss, _, found = CurvePair("x", curve(a, "loss", "eval"), curve(b, "loss", "eval")).reached()
    assert (loss, found["steps"], found["tokens"]) == (2.0, 22.5, 225.0)
    assert found["seconds"] == pytest.approx(2.25)
    assert curve(a, "loss", "eval").reach(4.5)["steps"] == 10


def test_long_curves_have_few_rows_of_smoothed_values():
    noise = np.random.default_rng(0).normal(size=400)
    pair = CurvePair("x", *(curve(run_of((3 + noise).tolist(), every), "loss", "train") for every in (1, 2)))
    steps = [row[0] for row in pair.rows()]
    assert (len(steps), steps[0], steps[-1]) == (8, 2, 400)
    assert np.std([row[1] for row in pair.rows()[1:]]) < 0.5


def test_runs_with_different_tokens_have_curves_of_bytes_alone():
    run = run_of([3.0], evaluations=[(1, 4.0)])
    assert [pair.name for pair in curve_pairs(run, run, per_token=True)] == ["training loss", "validation loss"]
    (pair,) = curve_pairs(run, run, per_token=False)
    assert (pair.name, pair.a.values.tolist()) == ("validation bits per byte", [2.0])
    assert curve_pairs(run, run_of([]), per_token=True) == []


def test_a_loss_that_is_never_reached():
    empty = np.zeros(0)
    assert CurvePair("x", Curve(*[empty] * 5), Curve(*[empty] * 5)).reached() is None
    flat = types.SimpleNamespace(smoothed=np.array([3.0, 2.0]))
    assert Curve.reach(flat, 1.0) is None
