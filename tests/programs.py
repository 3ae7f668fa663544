"""Cheaper compiled programs for tests: one MLIR context for all, and programs kept for as long as memory allows."""

import gc
import sys

import psutil

MOST_MEMORY = 1.25 * 2**30  # bytes of a process above which it lets go of its programs


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


def drop_large():
    """Drops compiled programs and their context if this process has become large."""
    if "jax" not in sys.modules or psutil.Process().memory_info().rss < MOST_MEMORY:
        return
    from jax._src.interpreters import mlir

    sys.modules["jax"].clear_caches()
    getattr(getattr(mlir, "make_ir_context", None), "forget", list)()
    gc.collect()
