"""Settings of the host process that make JAX on CPUs fast; none changes a number.

XLA's CPU client takes a fresh temporary buffer for every step. By default glibc maps large blocks again each time and
gives them back, so that every step pays for page faults and zeroed pages: a fifth to a third of its time (measured:
tests/benchmarks/README.md). Keeping freed memory in the process avoids it, for the blocks of the main thread: other
threads have heaps of 64 MiB at most, which is why commands also switch JAX's asynchronous dispatch on CPUs off.
"""

import ctypes
import platform

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4


def keep_freed_memory() -> None:
    """Tells glibc's allocator to keep and reuse large blocks; does nothing on other C libraries."""
    libc = _glibc()
    if libc is None:
        return
    # All blocks come from the heap: a threshold is an int, too small for the gigabytes of a large step.
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
    libc.mallopt(_M_TOP_PAD, 64 << 20)


def return_freed_memory() -> None:
    """Tells glibc's allocator to give back large freed blocks of all threads at once; for commands that do not train.

    By default it keeps blocks up to the size of the largest block freed so far, at most 32 MiB each, in the heap of
    every thread. Blocks of 1 MiB, in which checkpoints are read and written, are used again.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, 2 << 20)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
