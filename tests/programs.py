"""Compiled programs of tests are kept for as long as memory allows."""

import gc
import sys

import psutil

_PROCESS = psutil.Process()
MOST_GROWTH = 0.6 * 2**30  # bytes that a process takes from the system before it lets go of its programs
_least = []  # the bytes that it had then; freed memory stays with the process, so they do not fall


def drop_grown():
    """Drops compiled programs if this process has grown much since it did so last."""
    held = _PROCESS.memory_info().rss
    if not _least:
        _least.append(held)
    if "jax" not in sys.modules or held < _least[0] + MOST_GROWTH:
        return
    sys.modules["jax"].clear_caches()
    gc.collect()
    _least[0] = _PROCESS.memory_info().rss
