"""Regions of published tensors: the entries that hold a slice of a parameter, so that a process reads no others.

A device holds a slice of a parameter. In a published tensor the same numbers are a product of positions, some on each
axis, because an arrangement only splits, permutes, reverses and joins axes.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from model.families.weights import Part, Tensor

Bounds = tuple[tuple[int, int], ...]  # for each axis: the first position, and the position after the last


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """The entries of a tensor from which a slice of a parameter is made.

    Attributes:
      positions: for each axis of the tensor, the positions of these entries, in increasing order.
      split_shape: their shape with all combined axes split, in the tensor's order.
      reversed_axes: the axes of `split_shape` that the tensor has in the opposite order.
      permutation: the same axes in the parameter's order.
      arranged_shape: their shape in the parameter's order.
      cut: the slice within them; they are more than the slice if it divides a combined axis unevenly.
    """

    positions: tuple[np.ndarray, ...]
    split_shape: tuple[int, ...]
    reversed_axes: tuple[int, ...]
    permutation: tuple[int, ...]
    arranged_shape: tuple[int, ...]
    cut: tuple[slice, ...]

    def arrange(self, entries: np.ndarray) -> np.ndarray:
        """Returns the slice of the parameter, as a view where that is possible; `entries` has one axis a tensor's."""
        split = np.flip(entries.reshape(self.split_shape), self.reversed_axes)
        return split.transpose(self.permutation).reshape(self.arranged_shape)[self.cut]


def region(tensor: Tensor, number: int, bounds: Bounds) -> Region:
    """Returns the region of a tensor that holds a slice of its part `number`, within `Part.slice_shape`."""
    return _region(tuple(dataclasses.replace(part, parameter="", index=()) for part in tensor.parts), number, bounds)


@functools.lru_cache(maxsize=4096)  # layers and experts have the same regions
def _region(parts: tuple[Part, ...], number: int, bounds: Bounds) -> Region:
    part = parts[number]
    ranges = [(0, size) for size in part.split_shape]
    arranged, cut, axes = [], [], list(part.permutation)
    for (start, stop), size in zip(bounds, part.slice_shape, strict=True):
        combined = _take_axes(axes, part.split_shape, size)
        outer = next((axis for axis in combined if part.split_shape[axis] > 1), combined[0])
        inner = size // part.split_shape[outer]  # the slice is along the outer axis; the inner ones stay whole
        first, last = start // inner, -(-stop // inner)
        whole = part.split_shape[outer]
        ranges[outer] = (whole - last, whole - first) if outer in part.reversed_axes else (first, last)
        arranged.append((last - first) * inner)
        cut.append(slice(start - first * inner, stop - first * inner))
    positions = []
    for axis, (a, b) in enumerate(itertools.pairwise(np.cumsum((0, *part.split_ranks)))):
        sizes = part.split_shape[a:b]
        alone = np.arange(math.prod(sizes)).reshape(sizes)[tuple(slice(*ends) for ends in ranges[a:b])].ravel()
        positions.append(_joined_positions(parts, number)[alone] if axis == part.join_axis else alone)
    return Region(
        positions=tuple(positions),
        split_shape=tuple(stop - start for start, stop in ranges),
        reversed_axes=part.reversed_axes,
        permutation=part.permutation,
        arranged_shape=tuple(arranged),
        cut=tuple(cut),
    )


def _take_axes(axes: list[int], split_shape: Sequence[int], size: int) -> list[int]:
    """Removes and returns the first of `axes`: at least one, and as many as have this size together."""
    taken = [axes.pop(0)]
    while math.prod(split_shape[axis] for axis in taken) < size:
        taken.append(axes.pop(0))
    return taken


def _joined_positions(parts: tuple[Part, ...], number: int) -> np.ndarray:
    """Returns the positions of a part along the axis on which the parts are joined."""
    sizes = [part.shape[part.join_axis] for part in parts]
    sections = min(part.sections for part in parts)
    start = sum(sizes[:number]) // sections
    numbers = np.arange(sum(sizes)).reshape(sections, -1)
    return numbers[:, start : start + sizes[number] // sections].ravel()


def union(shape: Sequence[int], regions: Sequence[Region]) -> tuple[np.ndarray, ...]:
    """Returns for each axis of a tensor the positions that any of its regions has, in increasing order."""
    return tuple(
        np.arange(size)
        if any(len(one.positions[axis]) == size for one in regions)
        else functools.reduce(np.union1d, [one.positions[axis] for one in regions])
        for axis, size in enumerate(shape)
    )


def select(x: np.ndarray, held: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the entries at the positions `wanted` of an array that holds the positions `held` of a tensor.

    A view, unless the positions on an axis are unevenly spaced.
    """
    for axis, (there, here) in enumerate(zip(held, wanted, strict=True)):
        if len(there) > len(here):
            at = as_slice(np.searchsorted(there, here))
            x = x[(slice(None),) * axis + (at,)] if isinstance(at, slice) else np.take(x, at, axis)
    return x


def as_slice(positions: np.ndarray) -> slice | np.ndarray:
    """Returns the slice of evenly spaced positions; other positions unchanged."""
    first, step = int(positions[0]), int(positions[1] - positions[0]) if len(positions) > 1 else 1
    last = int(positions[-1])
    if first + step * (len(positions) - 1) == last and (len(positions) < 3 or (np.diff(positions) == step).all()):
        return slice(first, last + 1, step)
    return positions
