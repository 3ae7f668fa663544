"""Checksums of arrays, which show whether a checkpoint is undamaged.

They depend neither on the mesh nor on a file format.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from model.parameters.names import flatten, path_name
from model.recompute import HOST_MEMORY

# The longest axis that is summed over first: over 64 numbers XLA on CPUs stores all products again.
MAX_FIRST_AXIS = 32
# Bytes of the arrays whose sums over first axes are in memory at the same time.
GROUP_BYTES = 1 << 30

AxisSplit = tuple[tuple[int, ...], tuple[int, ...]]


def checksums(tree: Any) -> dict[str, int]:
    """The checksum of every array, by dotted name: the sum of its bits, as words, times 1, 3, 5, ..., modulo 2^32."""
    found: dict[str, int] = {}
    for group in groups_of(flatten(tree), GROUP_BYTES):
        group = {name: _on_device(x) for name, x in group.items()}
        splits = tuple(split_short_axis(x.shape, x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(group))
        found |= {name: int(value) for name, value in jax.device_get(checksums_on_devices(group, splits)).items()}
    return found


def _on_device(x: Any) -> Any:
    """The same array, copied to its devices if it is in the memory of their host."""
    return jax.device_put(x, x.sharding.with_memory_kind("device")) if x.sharding.memory_kind == HOST_MEMORY else x


def groups_of(arrays: Mapping[str, Any], most: int) -> Iterator[dict[str, Any]]:
    """Yields the arrays in groups of at most `most` bytes; a larger array is alone."""
    group: dict[str, Any] = {}
    for name, x in arrays.items():
        if group and sum(other.size * other.dtype.itemsize for other in (*group.values(), x)) > most:
            yield group
            group = {}
        group[name] = x
    if group:
        yield group


@functools.partial(jax.jit, static_argnums=1)  # a program for each array would be too small for the cache of programs
def checksums_on_devices(tree: Any, splits: tuple[AxisSplit, ...]) -> dict[str, jax.Array]:
    """Computes the checksums on the devices, each array split as `split_short_axis` says."""

    def checksum(x: jax.Array, split: AxisSplit) -> jax.Array:
        x = x.reshape(split[0])
        bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
        weights = jax.lax.iota(jnp.uint32, bits.size).reshape(bits.shape) * 2 + 1
        sums = jnp.sum(bits * weights, axis=split[1], dtype=jnp.uint32)
        return jnp.sum(jax.lax.optimization_barrier(sums), dtype=jnp.uint32)

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): checksum(x, split) for (path, x), split in zip(leaves, splits, strict=True)}


def split_short_axis(shape: tuple[int, ...], shard_shape: tuple[int, ...]) -> AxisSplit:
    """The shape with one axis split in two, and the one of the two to sum over first; none if no axis can be split.

    Before XLA sums over a long axis on CPUs, it stores all products: as many words as the state has, at a tenth of the
    speed. Over a short axis it sums without storing them. The axis that is summed first is whole on one device, whose
    part of the array has the shape `shard_shape`, so only sums move between devices.
    """
    factor = lambda size: max(n for n in range(1, MAX_FIRST_AXIS + 1) if size % n == 0)  # noqa: E731
    candidates = [
        (factor(part), part == size, -axis) for axis, (size, part) in enumerate(zip(shape, shard_shape, strict=True))
    ]
    n, whole, before = max(candidates, default=(1, True, 0))
    if n == 1:
        return shape, ()
    axis = -before
    # Memory is read in runs of the last axis. They stay long if this axis is not split over devices.
    runs = whole and axis == len(shape) - 1
    split = (n, shape[axis] // n) if runs else (shape[axis] // n, n)
    return (*shape[:axis], *split, *shape[axis + 1 :]), (axis if runs else axis + 1,)
