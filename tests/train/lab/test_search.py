"""Successive halving on losses that are known: which runs come next, and the rate that wins."""

import math

import pytest

from model.errors import UserError
from train.config_file import with_overrides
from train.lab.ablation import RateSearch
from train.lab.search import best_rate, rate_settings, summary, trials
from train.schedules import Constant

SEARCH = RateSearch(factors=(4.0, 0.25, 0.5, 1.0, 2.0), lengths=(0.25, 0.5, 1.0))


def loss(rate, steps):
    """Lowest at 0.005 for short runs, and at 0.0025 for long ones, as it is of real models."""
    best = 0.005 if steps < 10 else 0.0025
    return 1 / steps + abs(math.log(float(rate) / best))


def test_a_search_from_start_to_end(tiny_experiment):
    experiment, rounds = tiny_experiment(), []
    while following := trials(SEARCH, experiment, rounds):
        rounds.append({"steps": following[0].steps, "losses": {t.rate: loss(t.rate, t.steps) for t in following}})
    assert [(one["steps"], list(one["losses"])) for one in rounds] == [
        (5, ["0.0025", "0.005", "0.01", "0.02", "0.04"]),
        (10, ["0.0025", "0.005", "0.01"]),
        (20, ["0.0025", "0.005"]),
    ]
    assert best_rate(rounds) == "0.0025"
    found = summary(SEARCH, experiment, rounds)
    assert (found["rate"], found["at_edge"], found["runs"], found["rounds"]) == (0.0025, True, 10, rounds)


def test_a_trial_is_a_whole_short_run(tiny_experiment):
    experiment = tiny_experiment()
    (first, *_), (last, *_) = trials(SEARCH, experiment, []), trials(SEARCH, experiment, [{"losses": {"0.01": 1}}] * 2)
    short = with_overrides(experiment, first.settings)
    assert (short.training.num_steps, short.schedule.warmup_steps) == (5, 1)
    assert (short.schedule.peak, short.schedule.final) == (0.0025, 0.00025)
    assert with_overrides(experiment, last.settings) == experiment  # of full length, with the rate of the file


def test_a_rate_whose_run_fails_is_the_worst(tiny_experiment):
    rounds = [{"steps": 5, "losses": {"0.0025": None, "0.005": math.nan, "0.01": 7.0, "0.02": 9.0}}]
    assert [trial.rate for trial in trials(SEARCH, tiny_experiment(), rounds)] == ["0.01", "0.02"]
    with pytest.raises(UserError, match="every run failed or diverged, at the rates 0.1, 0.2"):
        best_rate([{"steps": 5, "losses": {"0.1": None, "0.2": math.inf}}])


def test_a_schedule_without_an_end(tiny_experiment):
    assert rate_settings(tiny_experiment(schedule=Constant(peak=1e-2)), "0.02") == ("schedule.peak=0.02",)
