"""Compiled plans: kept on the disk by all that they depend on, described in words, refused by name."""

import dataclasses

import pytest

from model.errors import UserError
from train.parallel.planner import compiled
from train.parallel.planner.chips import parse_cluster
from train.parallel.planner.compiled import CompiledStep, compiled_step, prepare_environment
from train.parallel.planner.job import job_of
from train.parallel.planner.program import Collective
from train.parallel.planner.words import plan_of

GIB = 2**30
STEP = CompiledStep(
    peak=9 * GIB,
    arguments=GIB,
    temporaries=8 * GIB,
    collectives=(Collective(kind="all-gather", axes=("fsdp",), runs=96, received=12e9),),
    trace_seconds=3.0,
    compile_seconds=61.0,
)


@pytest.fixture
def experiment(tiny_experiment):
    return tiny_experiment(mesh="Mesh(fsdp=8)")


@pytest.fixture
def compilations(monkeypatch):
    """The experiments that are compiled, without libtpu."""
    seen = []
    monkeypatch.setattr(compiled, "_compile", lambda experiment, cluster, whole: seen.append(experiment) or STEP)
    versions = dict.fromkeys(("jax", "jaxlib", "libtpu", "flax", "optax"), "1.0")
    monkeypatch.setattr(compiled.importlib.metadata, "version", versions.__getitem__)
    return seen


def test_the_same_plan_is_read_from_the_disk(experiment, compilations, tmp_path):
    cluster = parse_cluster("v5p:2x2x2")
    first = compiled_step(experiment, cluster, tmp_path)
    again = compiled_step(experiment, cluster, tmp_path)
    assert (first, again) == (STEP, dataclasses.replace(STEP, cached=True))
    assert len(compilations) == 1
    # The number of steps, paths and periods do not matter to the program; everything below does.
    longer = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, path="elsewhere"))
    assert compiled_step(longer, cluster, tmp_path).cached
    for other, chips in (
        (dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, width=64)), cluster),
        (dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, batch_size=16)), cluster),
        (experiment, parse_cluster("v5e:2x4")),
    ):
        assert not compiled_step(other, chips, tmp_path).cached


def test_other_code_and_other_versions_are_compiled_again(experiment, compilations, tmp_path, monkeypatch):
    cluster = parse_cluster("v5p:2x2x2")
    compiled_step(experiment, cluster, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "_sources", lambda: iter(()))
        assert not compiled_step(experiment, cluster, tmp_path).cached
    monkeypatch.setattr(compiled.importlib.metadata, "version", lambda name: "2.0")
    assert not compiled_step(experiment, cluster, tmp_path).cached


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"peak": 1}'])
def test_a_damaged_entry_is_made_again(content, experiment, compilations, tmp_path):
    cluster = parse_cluster("v5p:2x2x2")
    compiled_step(experiment, cluster, tmp_path)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(content)
    assert compiled_step(experiment, cluster, tmp_path) == STEP
    assert compiled_step(experiment, cluster, tmp_path).cached


def test_gpus_are_refused(experiment):
    with pytest.raises(UserError, match="--compile is for TPUs: jax compiles for a h100 only where there is one"):
        compiled_step(experiment, parse_cluster("h100:1x8"), None)


def test_libtpu_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed: pip install -e '\.\[tpu\]'"):
        prepare_environment({})
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: "a spec")
    environment = {"HOME": "/home"}
    prepare_environment(environment)
    assert environment["JAX_PLATFORMS"] == "cpu"
    assert environment["HOME"] == "/home"


def test_the_compilers_peak_decides(experiment):
    job = job_of(experiment, parse_cluster("v5e:2x4"))
    plan = plan_of(job, 10, STEP)
    assert plan.fits
    assert "  at the fullest moment           9.00 GiB of 16.00 GiB" in plan.lines
    assert "  fits: 7.00 GiB are left" in plan.lines
    assert any("all-gather" in line and "96 a step" in line and "12" in line for line in plan.lines)
    full = plan_of(job, 10, dataclasses.replace(STEP, peak=17 * GIB, cached=True))
    assert not full.fits
    assert "  does not fit: 1.00 GiB too much" in full.lines
    assert any(line.endswith("kept from an earlier call)") for line in full.lines)
