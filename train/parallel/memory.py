"""Memory of the host for tensors that are read and written: used again, aligned, and copied in tiles."""

import collections
import concurrent.futures
import functools
import math
import mmap
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes: XLA on CPUs takes an array of the host as it is if it begins at a multiple of this
# Numbers that a copy in another order of axes gathers at a time, each from a cache line of its own: few enough that the
# lines are still in the cache for their other numbers.
TILE = 256
COLUMNS, PADDING = 512, 64  # numbers of a run that are copied at a time; bytes of a cache line
MAX_THREADS = 8  # more do not make the memory faster
MANY_BYTES = 1 << 20  # from here on threads, and memory of its own, are worth starting


class Memory:
    """Bytes that are used again, so that the system need not clear new memory for every tensor."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def take(self, size: int) -> np.ndarray:
        """Bytes, which are valid until the next call."""
        if len(self._bytes) < size:
            self._bytes = np.empty(0, np.uint8)  # frees the old ones first
            self._bytes = np.empty(size, np.uint8)
        return self._bytes[:size]


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array, without values, that a CPU device can use as it is.

    A large one is mapped here, because NumPy asks for huge pages, which a virtual machine may first have to get from
    its host: that takes several times as long as small pages do (measured: tests/benchmarks/README.md).
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size >= MANY_BYTES:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return np.frombuffer(pages, np.uint8).view(dtype).reshape(shape)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def copy(target: np.ndarray, x: np.ndarray) -> None:
    """Copies an array, converted to the format of the target; fast also where the order of axes differs."""
    if x.dtype == target.dtype:  # as integers: NumPy copies formats that it does not know slowly
        target, x = target.view(f"u{target.itemsize}"), x.view(f"u{x.itemsize}")
    axes = [axis for axis in range(x.ndim) if x.shape[axis] > 1]
    fastest = min(axes, key=lambda axis: abs(x.strides[axis]), default=0)
    in_order = not axes or fastest == axes[-1]

    def copy_part(part: Any) -> None:
        if in_order:
            target[part] = x[part].astype(target.dtype, copy=False)
        else:
            _reorder(target[part], x[part], fastest)

    parts = _runs(x.shape, axes) if in_order else _tiles(x.shape, axes, fastest)
    if x.nbytes < MANY_BYTES:
        for part in parts:
            copy_part(part)
    else:  # NumPy lets other threads run while it copies
        collections.deque(threads().map(copy_part, parts), maxlen=0)


def _reorder(target: np.ndarray, x: np.ndarray, fastest: int) -> None:
    """Copies a tile whose axis `fastest` is contiguous into another order of axes.

    In published tensors the numbers of a tile's other axes are often 2^n bytes apart, and so share a few lines of the
    processor's cache. A copy in memory with `PADDING` after each run has them in different lines.
    """
    order = [*sorted(set(range(x.ndim)) - {fastest}, key=lambda axis: -abs(x.strides[axis])), fastest]
    *outer, run = (x.shape[axis] for axis in order)
    padded = np.empty((*outer, min(run, COLUMNS) + PADDING // target.itemsize), target.dtype)
    whole = padded.transpose(np.argsort(order))
    before = (slice(None),) * fastest
    for first in range(0, run, COLUMNS):
        at = (*before, slice(first, first + COLUMNS))
        staged = whole[(*before, slice(0, min(COLUMNS, run - first)))]
        np.copyto(staged, x[at], casting="unsafe")
        target[at] = staged


@functools.cache
def threads() -> concurrent.futures.ThreadPoolExecutor:
    """The threads that read and copy parts of tensors."""
    return concurrent.futures.ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))


def _runs(shape: Sequence[int], axes: Sequence[int]) -> Iterator[Any]:
    """Parts of an array that is copied in long runs, one for a thread; `axes` are those of more than one number."""
    if not axes:
        yield ...
        return
    step = -(-shape[axes[0]] // MAX_THREADS)
    for first in range(0, shape[axes[0]], step):
        yield (*(slice(None),) * axes[0], slice(first, first + step))


def _tiles(shape: Sequence[int], axes: Sequence[int], fastest: int) -> Iterator[Any]:
    """Parts of two arrays such that a part of each stays in the processor's cache while it is copied."""
    axis, length = axes[-1], 1
    while axis > fastest + 1 and length * shape[axis] < TILE:
        length, axis = length * shape[axis], axis - 1
    step = max(1, TILE // length)
    for outer in np.ndindex(*shape[fastest + 1 : axis]):
        for first in range(0, shape[axis], step):
            between = tuple(slice(i, i + 1) for i in outer)
            yield (*(slice(None),) * (fastest + 1), *between, slice(first, first + step))
