"""The runs of a sweep."""

import pytest

from launch.clusters.job import Job
from launch.clusters.sweep import sweep
from model.errors import UserError

JOB = Job(config="c.py", run="runs/s", settings=("a=1",))


def test_every_variant_with_every_seed():
    runs = sweep(JOB, "0,2-3", ("base:", "wide: model.width=512 'name=a b'"))
    assert [one.run for one in runs] == [f"runs/s/{name}-seed{seed}" for name in ("base", "wide") for seed in (0, 2, 3)]
    assert runs[0].settings == ("a=1", "training.seed=0", "data.seed=0")
    assert runs[-1].settings == ("a=1", "model.width=512", "name=a b", "training.seed=3", "data.seed=3")


def test_one_dimension_and_none():
    assert [one.run for one in sweep(JOB, "7", ())] == ["runs/s/seed7"]
    assert [one.run for one in sweep(JOB, None, ("x: b=2",))] == ["runs/s/x"]
    assert sweep(JOB, None, ()) == [JOB]


@pytest.mark.parametrize("seeds", ["", "1-", "3-1", "-1", "1,,2", "0-99999"])
def test_seeds_that_are_none(seeds):
    with pytest.raises(UserError, match="expected whole numbers and ranges"):
        sweep(JOB, seeds, ())


@pytest.mark.parametrize("variant", ["no colon", "../up: a=1", ": a=1", "x: 'a=1"])
def test_variants_that_are_none(variant):
    with pytest.raises(UserError, match="--variant="):
        sweep(JOB, None, (variant,))
