"""The search for a plan: its candidates divide the job and fit, the order is that of the model, flags make the same job."""

import dataclasses
import itertools
import shlex

import pytest

from model.config import ModelConfig
from model.options.assignments import override
from model.options.tree import find_problems
from model.parameters.precision import Precision
from train.parallel.mesh import parse_mesh
from train.parallel.planner.chips import parse_cluster
from train.parallel.planner.compiled import CompiledStep, TooLargeError
from train.parallel.planner.job import check_job, check_parameters, job_of
from train.parallel.planner.memory import memory_of
from train.parallel.planner.search import ROOM, compile_best, search
from train.parallel.planner.step_time import step_time
from train.parallel.planner.words import other_meshes, search_plan

CLUSTER = parse_cluster("v5e:2x4")
STEP = CompiledStep(peak=1, arguments=1, temporaries=1, collectives=(), trace_seconds=1, compile_seconds=1)


@pytest.fixture(scope="module")
def experiment():
    """A model of 1.2B parameters: it fits on eight chips in many ways, but not in all."""
    from model.attention.grouped_query import GroupedQuery
    from model.feedforward.mlp import Gated
    from tests.train.parallel.planner.test_job import EXPERIMENT

    model = ModelConfig(
        vocab_size=32000,
        context_length=4096,
        num_layers=16,
        width=2048,
        mixer=GroupedQuery(num_heads=16, num_kv_heads=4),
        ffn=Gated(width=8192),
        precision=Precision(compute="bfloat16"),
    )
    data = dataclasses.replace(EXPERIMENT.data, batch_size=16, sequence_length=4096)
    return dataclasses.replace(EXPERIMENT, model=model, data=data)


@pytest.fixture(scope="module")
def found(experiment):
    return search(experiment, CLUSTER)


def test_candidates_divide_the_job_and_fit(experiment, found):
    assert 0 < len(found.fitting) < found.tried
    for one in found.fitting:
        check_job(one.job)
        check_parameters(experiment, one.mesh)
        assert one.mesh["stage"] == 1 or not list(find_problems(one.experiment(experiment)))
        assert memory_of(one.job).total == one.memory <= ROOM * CLUSTER.chip.hbm
    assert found.smallest.memory <= min(one.memory for one in found.fitting)
    assert all(one.mesh["tensor"] <= 4 for one in found.fitting)  # of 4 key heads
    axes = {axis for one in found.fitting for axis, size in one.mesh.items() if size > 1}
    assert axes >= {"data", "fsdp", "tensor", "context", "stage"}
    assert "expert" not in axes


def test_faster_ones_come_first(found):
    speeds = [one.speed for one in found.fitting]
    assert all(later < 1.03 * first for first, later in itertools.pairwise(speeds))
    best = found.fitting[0]
    assert best.seconds == step_time(best.job).total
    assert best.speed >= 0.98 * max(speeds)
    assert 0 < best.mfu < 1


def test_the_flags_of_a_candidate_make_its_job(experiment, found):
    ready = list(found.fitting)
    kinds = {(one.remat, one.job.stream_split, one.job.microbatches > 1): one for one in ready}
    assert len(kinds) > 6
    for one in kinds.values():
        mesh, *changes = shlex.split(" ".join(one.settings(experiment)))
        changed = dataclasses.replace(experiment, mesh=parse_mesh(mesh.removeprefix("--mesh=")))
        for change in changes:
            changed = changed if change == "--set" else override(changed, change)
        job = job_of(changed, CLUSTER)
        assert job == one.job
        assert job_of(one.experiment(experiment), CLUSTER) == one.job


def test_other_batches_are_tried(experiment):
    batches = {one.job.batch for one in search(experiment, CLUSTER, [8, 32]).fitting}
    assert batches == {8, 32}


def test_the_best_are_compiled_until_enough_fit(experiment, found):
    ready = list(found.fitting)
    too_large = ready[0].experiment(experiment)
    seen = []

    def compile_step(candidate):
        seen.append(candidate)
        if candidate == too_large:
            raise TooLargeError("needs 17G of 16G")
        return dataclasses.replace(STEP, peak=int(ready[1].memory))

    done = compile_best(experiment, found.fitting, 2, compile_step)
    assert len(seen) == 3
    assert [each.candidate for each in done] == [ready[1], ready[2], ready[0]]
    assert [each.fits for each in done] == [True, True, False]
    plan = search_plan(experiment, found, done)
    assert plan.fits
    assert plan.lines[-1] == "  " + " ".join(ready[1].settings(experiment))
    assert any("does not fit" in line for line in plan.lines)


def test_where_nothing_fits(experiment):
    model = dataclasses.replace(
        experiment.model, width=8192, ffn=dataclasses.replace(experiment.model.ffn, width=32768)
    )
    large = dataclasses.replace(experiment, model=model)
    nothing = search(large, CLUSTER)
    plan = search_plan(large, nothing, [])
    assert not plan.fits
    assert f"the smallest takes {nothing.smallest.memory / 2**30:.2f} GiB of 16.00 GiB" in plan.lines[1]
    assert "it fits on v5e:" in plan.lines[-1]
    odd = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, batch_size=7, sequence_length=4095))
    odd = dataclasses.replace(odd, model=dataclasses.replace(odd.model, num_layers=7))
    none = search(dataclasses.replace(odd, model=dataclasses.replace(odd.model, vocab_size=31999)), CLUSTER)
    assert none.smallest is None
    assert "try other batches, as in --batches=16,32" in search_plan(experiment, none, []).lines[0]


def test_a_plan_that_does_not_fit_names_the_fastest_that_does(experiment, found):
    job = job_of(dataclasses.replace(experiment, mesh=parse_mesh("data=8")), CLUSTER)
    flags = other_meshes(experiment, found, job, None)[-1].strip()
    ready = list(found.fitting)
    assert flags == " ".join(ready[0].settings(experiment))
    # The compiler needs twice the count: so will the others.
    doubled = dataclasses.replace(STEP, peak=int(2 * memory_of(job).total))
    fits = [one for one in ready if 2 * one.memory <= CLUSTER.chip.hbm]
    assert other_meshes(experiment, found, job, doubled)[-1].strip() == " ".join(fits[0].settings(experiment))
