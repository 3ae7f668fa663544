"""Plans: exact FLOPs, schedules that stretch, names, and runs that are too short."""

import dataclasses
import re

import pytest

from configs.quickstart import experiment as quickstart
from configs.shakespeare_char import experiment as shakespeare
from model.cost import training_flops
from model.errors import UserError
from model.options.tree import check
from train.lab.scaling.ladder.plan import MIN_STEPS, Planner


@pytest.fixture(scope="module")
def planner():
    return Planner(shakespeare)


@pytest.fixture(scope="module")
def rungs(planner):
    return planner.isoflop([1e12, 3e11], sizes=5, spread=3, ratio=5)


def test_a_budget_has_sizes_around_the_guess(planner, rungs):
    assert [rung.budget for rung in rungs] == [3e11] * 5 + [1e12] * 5
    for rung in rungs:
        assert rung.flops == pytest.approx(rung.budget, rel=0.01)
        assert rung.tokens == rung.steps * 12 * 64
    small = [rung.parameters for rung in rungs[:5]]
    assert small == sorted(set(small))
    middle = rungs[2]
    assert middle.tokens / middle.parameters == pytest.approx(5, rel=0.4)  # the nearest shape, not the guess itself
    assert small[-1] / small[0] == pytest.approx(9, rel=0.4)


def test_rungs_are_experiments_whose_operations_are_exact(planner, rungs):
    for rung in rungs[::3]:
        experiment = planner.experiment(rung.settings)
        check(experiment)
        assert experiment.training.num_steps == rung.steps == experiment.evaluation.every
        rows = rung.steps * experiment.data.batch_size
        assert rung.flops == rows * training_flops(experiment.model, experiment.data.sequence_length)
        assert experiment.schedule.warmup_steps == max(1, round(100 / 2000 * rung.steps))
        assert experiment.schedule.peak == shakespeare.schedule.peak
        assert (experiment.samples.prompts, experiment.logging.tensorboard) == ((), False)
        assert experiment.data == shakespeare.data


def test_grids(planner):
    found = planner.grid([3e5, 1e5], [], [20, 5])
    assert [round(rung.tokens / rung.parameters, 1) for rung in found] == [5, 5, 20, 20]
    assert found[0].parameters < found[1].parameters
    assert all(rung.budget is None for rung in found)
    of_budgets = planner.grid([3e5, 1e5], [1e12], [20])
    assert [rung.flops for rung in of_budgets] == pytest.approx([1e12, 1e12], rel=0.01)
    assert [rung.parameters for rung in of_budgets] == [rung.parameters for rung in found[:2]]


def test_names_tell_runs_apart(rungs, planner):
    names = [rung.name for rung in [*rungs, *planner.grid([1e5], [], [5, 20])]]
    assert len(set(names)) == len(names)
    assert re.fullmatch(r"c3e11-n[\d.]+k-l1w\d+", names[0])
    assert all(name.replace("-", "").replace(".", "").isalnum() for name in names)
    twice = planner.grid([1e5, 1.001e5], [], [5])
    assert len(twice) == 1  # one shape


def test_decay_and_rates(planner):
    rung = Planner(quickstart, rate_exponent=-0.5).for_ratio(3e5, 20)
    experiment = planner.experiment([])
    experiment = Planner(quickstart).experiment(rung.settings)
    check(experiment)
    assert experiment.schedule.decay_steps == pytest.approx(850 / 1200 * rung.steps, abs=1)
    assert experiment.schedule.peak == pytest.approx(6e-3 * (experiment.model.width / 192) ** -0.5, rel=1e-5)
    short = Planner(
        dataclasses.replace(quickstart, training=dataclasses.replace(quickstart.training, num_steps=10_000))
    )
    check(short.experiment(short.for_ratio(3e5, 0.2).settings))


def test_a_run_of_few_steps_is_refused(planner):
    with pytest.raises(
        UserError, match=rf"would be 3 steps of 768 tokens; at least {MIN_STEPS} are needed: ask for more"
    ):
        planner.for_budget(1e5, 1.4e9)
    with pytest.raises(UserError, match="--sizes=2: a curve of equal C needs at least 3 sizes"):
        planner.isoflop([1e12], 2, 3, 20)


def test_a_rung_in_a_file(rungs):
    entry = rungs[0].as_json()
    assert entry["settings"] == list(rungs[0].settings)
    assert entry["parameters"] == rungs[0].parameters > entry["parameters_without_embedding"]
