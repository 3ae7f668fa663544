"""Compiled plans: kept on the disk by all that they depend on, described in words, refused by name."""

import dataclasses

import pytest

from model.errors import UserError
from train.parallel.planner import compiled, worker
from train.parallel.planner.chips import parse_cluster
from train.parallel.planner.compiled import CompiledStep, TooLargeError, compiled_step, prepare_environment
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


def test_a_program_that_does_not_fit_is_remembered(experiment, compilations, tmp_path, monkeypatch):
    tried = []

    def refuse(experiment, cluster, whole):
        tried.append(experiment)
        raise TooLargeError("needs 17G of 16G")

    monkeypatch.setattr(compiled, "_compile", refuse)
    for _ in range(2):
        with pytest.raises(TooLargeError, match="needs 17G of 16G"):
            compiled_step(experiment, parse_cluster("v5p:2x2x2"), tmp_path)
    assert len(tried) == 1


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


class Process:
    """A worker that has ended, or that works on."""

    def __init__(self, returncode=None):
        self.returncode = returncode

    def poll(self):
        return self.returncode


ASSIGNMENT = """BufferAssignment:
allocation 0: size 100, parameter 0, shape |f32[25]| at ShapeIndex {}, maybe-live-out:
 value: <1 param.1 @0> (size=100,offset=0): f32[25]
allocation 1: size 28, parameter 1, shape |s32[7]| at ShapeIndex {}:
allocation 2: size 0, thread-local:
allocation 3: size 5000, preallocated-temp:
allocation 4: size 900, color 1, preallocated-temp:
allocation 5: size 8, maybe-live-out:
"""
PROGRAM = """HloModule jit_train_step

ENTRY %main (x: f32[8]) -> f32[64] {
  %x = f32[8]{0} parameter(0)
  ROOT %g = f32[64]{0} all-gather(%x), replica_groups=[1,8]<=[8], dimensions={0}
}
"""


def write_dump(folder):
    (folder / worker.TRACED).write_text('{"trace_seconds": 2.5, "mesh": {"fsdp": 8}}')
    start = folder / "module_0000.jit_train_step.cl_1.after_optimizations"
    start.with_name(f"{start.name}-buffer-assignment.txt").write_text(ASSIGNMENT)
    program = start.with_name(f"{start.name}_after_buffer_assignment.txt")
    program.write_text(PROGRAM)
    return program


def test_the_dump_of_the_memory_is_enough(tmp_path):
    write_dump(tmp_path)
    step = compiled._wait(tmp_path, Process(), whole=False)
    assert (step.arguments, step.temporaries, step.peak) == (128, 5000, 5136)
    assert step.collectives == (Collective(kind="all-gather", axes=("fsdp",), runs=1, received=7 / 8 * 256),)
    assert step.trace_seconds == 2.5


def test_a_dump_that_is_being_written_is_waited_for(tmp_path, monkeypatch):
    program = write_dump(tmp_path)
    program.write_text(PROGRAM[:-10])
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        program.write_text(PROGRAM)

    monkeypatch.setattr(compiled.time, "sleep", pause)
    assert compiled._wait(tmp_path, Process(), whole=False).peak == 5136
    assert len(pauses) == 1


def test_a_whole_compilation_is_waited_for(tmp_path):
    write_dump(tmp_path)
    (tmp_path / "program.txt").write_text(PROGRAM)
    (tmp_path / worker.RESULT).write_text('{"peak": 5, "arguments": 2, "temporaries": 9, "compile_seconds": 61.0}')
    step = compiled._wait(tmp_path, Process(0), whole=True)
    assert (step.peak, step.arguments, step.temporaries, step.compile_seconds) == (5, 2, 9, 61.0)


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        (worker.TOO_LARGE, "needs 1.53T of 95.74G", TooLargeError, "^needs 1.53T of 95.74G$"),
        (worker.ERROR, "libtpu does not compile for that", UserError, "^libtpu does not compile for that$"),
        ("log", "one\nKilled\n", UserError, "the compiler ended with status -9: Killed"),
        ("log", "", UserError, "the compiler ended with status -9: no message"),
    ],
)
def test_the_worker_says_why_there_is_no_result(name, content, error, words, tmp_path):
    (tmp_path / "log").touch()
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=words):
        compiled._wait(tmp_path, Process(-9), whole=False)


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
    none = plan_of(job, 10, "needs 17G of 16G")
    assert not none.fits
    assert "  needs 17G of 16G" in none.lines
    assert any(line.endswith("kept from an earlier call)") for line in full.lines)
