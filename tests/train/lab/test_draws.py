"""Grids and random draws."""

import math
import statistics

import pytest

from model.errors import UserError
from model.positions.absolute import NoPositions, Sinusoidal
from train.lab.draws import Choice, LogUniform, Uniform, draws, grid


def test_a_grid_has_every_combination():
    found = grid({"schedule.peak": (1e-3, 0.02), "model.position": (NoPositions(), Sinusoidal())})
    assert list(found) == [f"peak{peak}-{name}" for peak in ("0.001", "0.02") for name in ("NoPositions", "Sinusoidal")]
    assert found["peak0.02-Sinusoidal"] == {"schedule.peak": 0.02, "model.position": Sinusoidal()}


def test_values_by_name():
    found = grid({"model.position": {"fast": Sinusoidal(theta=100.0), "slow": Sinusoidal()}})
    assert found == {"fast": {"model.position": Sinusoidal(theta=100.0)}, "slow": {"model.position": Sinusoidal()}}
    with pytest.raises(UserError, match="two combinations are named 'Sinusoidal'; give values by name"):
        grid({"model.position": (Sinusoidal(theta=100.0), Sinusoidal())})


@pytest.mark.parametrize("fields", [{}, {"schedule.peak": ()}])
def test_a_grid_of_nothing(fields):
    with pytest.raises(UserError, match="expected values for every field"):
        grid(fields)


def test_a_grid_that_is_too_large():
    with pytest.raises(UserError, match="1,000,000 combinations"):
        grid({name: range(1000) for name in ("a", "b")})


FIELDS = {"schedule.peak": LogUniform(1e-4, 1e-2), "optimizer.b2": Uniform(0.9, 1.0), "model.width": Choice((64, 96))}


def test_draws_have_their_distributions():
    found = draws(FIELDS, 2000, seed=1)
    peaks = [math.log10(one["schedule.peak"]) for one in found.values()]
    assert -4 <= min(peaks) < -3.99
    assert -2.01 < max(peaks) <= -2
    # A uniform variable has its mean in the middle and a deviation of its range / sqrt(12): 0.577 here.
    assert statistics.mean(peaks) == pytest.approx(-3, abs=0.05)
    assert statistics.pstdev(peaks) == pytest.approx(2 / math.sqrt(12), abs=0.03)
    assert statistics.mean(one["optimizer.b2"] for one in found.values()) == pytest.approx(0.95, abs=0.01)
    assert statistics.mean(one["model.width"] for one in found.values()) == pytest.approx(80, abs=2)


def test_draws_depend_on_the_seed_alone():
    assert draws(FIELDS, 12) == draws(FIELDS, 12)
    assert draws(FIELDS, 12) != draws(FIELDS, 12, seed=1)
    assert list(draws(FIELDS, 12))[:2] == ["draw00", "draw01"]
    assert list(draws(FIELDS, 12).values()) == list(draws(FIELDS, 20).values())[:12]


@pytest.mark.parametrize(
    ("fields", "count", "words"),
    [
        ({}, 2, "expected fields"),
        (FIELDS, 0, "a count from 1"),
        ({"a": Uniform(2, 1)}, 2, "a: expected a lower bound below"),
        ({"a": LogUniform(0, 1)}, 2, "a lower bound above 0 below"),
        ({"a": Choice(())}, 2, "no values"),
    ],
)
def test_mistakes(fields, count, words):
    with pytest.raises(UserError, match=words):
        draws(fields, count)
