"""Analyses of sweeps whose numbers are known."""

import math
import shutil

import pytest

from tests.train.lab.sweeps import OFFSETS, SETTINGS, STEPS, search_record, write_run, write_sweep
from train.lab.report.analysis import analyse
from train.lab.results import read_results

SETS = SETTINGS | {"hot_100%": ["schedule.peak=1"]}


@pytest.fixture(scope="session")
def base(tiny_experiment):
    return tiny_experiment(training__num_steps=STEPS)


@pytest.fixture(scope="session")
def finished(base, tmp_path_factory):
    """A sweep of four variants whose runs are all at their end, with a claim and a search of rates."""
    folder = tmp_path_factory.mktemp("sweeps") / "finished"
    search = {name: search_record(at_edge=name == "slow") for name in ("base", "wide", "slow")}
    write_sweep(folder, base, search=search, claim="loss <= 1.78, p < 0.01", hold="params", hold_by="width")
    return analyse(read_results(folder))


@pytest.fixture(scope="session")
def broken(base, tmp_path_factory):
    """A sweep with a missing, a failed and a diverged run."""
    folder = tmp_path_factory.mktemp("sweeps") / "broken"
    offsets = OFFSETS | {"hot_100%": 0.3}
    write_sweep(folder, base, SETS, offsets, claim="difference <= -0.03, p < 0.05")
    write_run(folder, base, "hot_100%", 1, SETS["hot_100%"], offsets, end=math.nan)
    write_run(folder, base, "slow", 2, SETS["slow"], offsets, stop=120, state="failed")
    shutil.rmtree(folder / "same-seed1")
    return analyse(read_results(folder))
