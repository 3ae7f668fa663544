"""Compiled programs of tests are kept for as long as memory allows, and trainings of equal options share them."""

import ctypes
import dataclasses
import gc
import importlib
import sys
import threading
import types
import typing

import psutil

_PROCESS = psutil.Process()
MOST_GROWTH = 0.6 * 2**30  # bytes that a process takes from the system before it lets go of its programs
PROGRAMS_OF_CONTEXT = 100
_least = []  # the bytes that it had then
_shared = {}  # jitted steps by the function that makes them, the options that they read, and the mesh
# Fields of an Experiment that no step reads: when and where something is done, not what a step computes. Of the data a
# step with micro-batches reads the rows of a whole batch.
NOT_IN_STEPS = (
    "checkpoints",
    "data",
    "evaluation",
    "evaluations",
    "logging",
    "mesh",
    "samples",
    "spikes",
    "statistics",
)
NOT_IN_EVALUATIONS = (*NOT_IN_STEPS, "objective", "schedule")


def drop_grown():
    """Drops compiled programs if this process has grown much since it did so last."""
    held = _PROCESS.memory_info().rss
    if not _least:
        _least.append(held)
    if "jax" not in sys.modules or held < _least[0] + MOST_GROWTH:
        return
    drop_steps()
    sys.modules["jax"].clear_caches()
    gc.collect()
    _return_memory()
    _least[0] = _PROCESS.memory_info().rss


def _return_memory():
    """Gives freed memory back to the system. The allocator of glibc keeps it, and a worker would grow to 6 GB."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def drop_steps():
    """Lets go of the shared steps: the next training traces its own."""
    _shared.clear()


def share_contexts():
    """Lets programs share the context in which they are lowered, whose making takes a fifth of the time of lowering.

    A thread has its own, and makes another after some programs, since a context keeps what it was ever given.
    """
    if "jax" not in sys.modules:
        return
    lowering = importlib.import_module("jax._src.interpreters.mlir")
    if not hasattr(lowering, "make_ir_context"):  # not public: another version may have no such function
        return
    make, held = lowering.make_ir_context, threading.local()

    def shared(*given, **named):
        if given or named:  # of a version whose contexts are not all alike
            return make(*given, **named)
        if getattr(held, "uses", PROGRAMS_OF_CONTEXT) >= PROGRAMS_OF_CONTEXT:
            held.context, held.uses = make(), 0
        held.uses += 1
        return held.context

    lowering.make_ir_context = shared


def share_steps():
    """Lets all trainings of this process with equal options share a jitted step, which is traced once.

    A training makes its own otherwise, and tracing takes most of the time of a small one. Tests that compile a step
    themselves get a step of their own.
    """
    if "train.hooks.programs" in sys.modules:
        programs = sys.modules["train.hooks.programs"]
        programs.compile_train_step = _sharing(programs.compile_train_step, _read_by_steps)
        programs.compile_eval_step = _sharing(programs.compile_eval_step, _read_by_evaluations)


def _read_by_steps(experiment):
    """The options that a step reads; numbers of steps and of rows only where its result depends on them."""
    options = _without(experiment, NOT_IN_STEPS)
    training = dataclasses.replace(experiment.training, seed=0, init_from=None, branch_from=None)
    if type(experiment.schedule).__name__ in ("Constant", "InverseSquareRoot"):
        training = dataclasses.replace(training, num_steps=1)
    rows = experiment.data.batch_size if training.gradient_accumulation > 1 else 1
    return options | {"training": training, "data": DataOfSteps(rows)}


def _read_by_evaluations(experiment):
    training = experiment.training
    return _without(experiment, NOT_IN_EVALUATIONS) | {
        "training": TrainingOfEvaluations(training.guard, training.frozen)
    }


class DataOfSteps(typing.NamedTuple):
    """What a step reads of `data`."""

    batch_size: int


class TrainingOfEvaluations(typing.NamedTuple):
    """What an evaluation reads of `training`."""

    guard: object
    frozen: object


def _without(experiment, left_out):
    names = [field.name for field in dataclasses.fields(experiment) if field.name not in left_out]
    return {name: getattr(experiment, name) for name in names}


def _sharing(make, read_by):
    """Returns `make`, called once for experiments with equal options, with these alone: no step can read another."""

    def shared(experiment, mesh, *others):
        options = read_by(experiment)
        key = (make, mesh, others, *options.values())
        if key not in _shared:
            _shared[key] = make(types.SimpleNamespace(**options), mesh, *others)
        return _shared[key]

    return shared
