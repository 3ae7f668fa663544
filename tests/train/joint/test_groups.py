"""Which runs train in one program, and the numbers that it takes as inputs."""

import dataclasses

import pytest

from model.errors import UserError
from train.experiment import Branch
from train.joint.groups import (
    INPUTS,
    check_joint,
    inputs_of,
    reason_alone,
    shape_of,
    split,
    suggested_size,
    with_inputs,
)

JOINABLE = [
    {"training__seed": 3, "data__seed": 4},
    {"schedule__peak": 2e-2, "schedule__final": 0.0},
    {"optimizer__weight_decay": 0.0},
    {"training__clip_norm": 0.5},
    {"training__init_from": "runs/other"},
]
APART = [
    {"model__width": 64},
    {"optimizer__b2": 0.99},
    {"schedule__warmup_steps": 5},
    {"training__num_steps": 30},
    {"training__clip_norm": None},
    {"data__batch_size": 16},
    {"evaluation__every": 5},
    {"optimizer": "Lion(weight_decay=0.1)"},
    {"schedule": "Constant(peak=1e-2, warmup_steps=4)"},
]
ALONE = [
    ({"data__ramp": "Ramp(start=2, double_every=5)"}, "data.ramp"),
    ({"sharding__moments": "host"}, "sharding.moments"),
    ({"logging__wandb_project": "p"}, "logging.wandb_project"),
]


@pytest.mark.parametrize("changes", JOINABLE, ids=str)
def test_one_shape(changes, tiny_experiment):
    base, other = tiny_experiment(), tiny_experiment(**changes)
    assert base != other
    assert shape_of(base) == shape_of(other)
    check_joint([("a", base), ("b", other)])


@pytest.mark.parametrize("changes", APART, ids=str)
def test_other_shapes_are_refused_by_name(changes, tiny_experiment):
    base, other = tiny_experiment(), tiny_experiment(**changes)
    assert shape_of(base) != shape_of(other)
    field = next(iter(changes)).replace("__", ".")
    with pytest.raises(UserError, match=f"a and b cannot train in one program.*\n  {field}: "):
        check_joint([("a", base), ("b", other)])


def test_branches_of_trunks_of_their_own(tiny_experiment):
    one, other = (
        tiny_experiment(training__branch_from=Branch(run=f"runs/base-seed{seed}", step=10)) for seed in (0, 1)
    )
    assert shape_of(one) == shape_of(other) != shape_of(tiny_experiment())


def test_decay_is_no_input_where_parameters_have_fewer_bits(tiny_experiment):
    one, other = (
        tiny_experiment(model__precision__parameters="bfloat16", optimizer__weight_decay=decay) for decay in (0.0, 0.1)
    )
    assert shape_of(one) != shape_of(other)


@pytest.mark.parametrize(("changes", "field"), ALONE, ids=lambda x: x if isinstance(x, str) else "")
def test_alone(changes, field, tiny_experiment):
    experiment = tiny_experiment(**changes)
    assert reason_alone(experiment).startswith(field)
    with pytest.raises(UserError, match=f"b cannot train jointly with others: {field}"):
        check_joint([("a", tiny_experiment()), ("b", experiment)])
    assert split([experiment, experiment], lambda one: one, 8) == [[experiment], [experiment]]


def test_a_pipeline_trains_alone(tiny_experiment):
    experiment = tiny_experiment()
    staged = dataclasses.replace(experiment, mesh=dataclasses.replace(experiment.mesh, stage=2))
    assert reason_alone(experiment) is None
    assert reason_alone(staged).startswith("mesh.stage")


def test_split(tiny_experiment):
    narrow, wide = tiny_experiment(), tiny_experiment(model__width=64)
    runs = [(name, experiment) for seed in range(5) for name, experiment in ((f"n{seed}", narrow), (f"w{seed}", wide))]

    def names(size, places=1, items=runs):
        return ["".join(name for name, _ in group) for group in split(items, lambda run: run[1], size, places)]

    assert names(8) == ["n0n1n2n3n4", "w0w1w2w3w4"]
    assert names(2) == ["n0", "n1n2", "n3n4", "w0", "w1w2", "w3w4"]
    assert names(1) == [f"{kind}{seed}" for kind in "nw" for seed in range(5)]
    assert names(8, places=4) == ["n0n1", "n2n3n4", "w0w1", "w2w3w4"]  # one group a place
    assert names(8, places=4, items=runs[::2]) == ["n0", "n1", "n2", "n3n4"]


def test_inputs(tiny_experiment):
    base, other = tiny_experiment(), tiny_experiment(schedule__peak=2e-2, training__seed=4)
    assert inputs_of([base, base]) == {}
    assert inputs_of([base, other]) == {"schedule.peak": [1e-2, 2e-2]}
    assert with_inputs(base, {"schedule.peak": 2e-2, "training.seed": 4}) == other
    every = tiny_experiment(
        schedule__peak=1.0, schedule__final=0.5, optimizer__weight_decay=0.0, training__clip_norm=2.0
    )
    assert set(inputs_of([base, every])) == set(INPUTS)


def test_many_small_runs_and_one_large_one(tiny_experiment):
    assert suggested_size(tiny_experiment()) == 16
    assert suggested_size(tiny_experiment(data__batch_size=1024, data__sequence_length=32)) == 4
    assert suggested_size(tiny_experiment(model__vocab_size=100_000, model__width=1024)) == 1
