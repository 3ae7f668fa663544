"""Cheaper compiled programs for tests: one MLIR context for all, and programs kept for as long as memory allows."""

import gc
import sys

import psutil

MOST_GROWTH = 0.6 * 2**30  # bytes that a process takes from the system before it lets go of its programs
_least = []  # the bytes that it had then; freed memory stays with the process, so they do not fall


def share_context():
    """Lowers all programs in one context: jax makes a new one for each, which takes longer than a small program.

    It does so in a function that is not public. Where there is none of this name, programs are lowered as always.
    """
    from jax._src.interpreters import mlir

    make = getattr(mlir, "make_ir_context", None)
    if make is not None:
        held = []

        def shared():
            if not held:
                held.append(make())
            return held[0]

        shared.forget = held.clear
        mlir.make_ir_context = shared


def forget_steps():
    """Lets go of the steps that functions of the project remember: a test that patches the code wants its own."""
    for module, name in (("train.step", "compile_train_step"), ("train.evaluation.validation", "compile_eval_step")):
        if module in sys.modules:
            getattr(sys.modules[module], name).cache_clear()


def drop_grown():
    """Drops compiled programs and their context if this process has grown much since it did so last."""
    held = psutil.Process().memory_info().rss
    if not _least:
        _least.append(held)
    if "jax" not in sys.modules or held < _least[0] + MOST_GROWTH:
        return
    from jax._src.interpreters import mlir

    forget_steps()
    sys.modules["jax"].clear_caches()
    getattr(getattr(mlir, "make_ir_context", None), "forget", list)()
    gc.collect()
    _least[0] = psutil.Process().memory_info().rss
