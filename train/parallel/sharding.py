"""The mesh, and the one table that lays logical axes over it.

Parameters and activations carry logical names where they are made; this table says which mesh axes each name is split
over. To try another parallelism, change the table or the mesh; the model stays as it is.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from model.errors import UserError
from model.taps import Shard, unsharded

MESH_AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """How many devices lie along each axis of the mesh; their product is the device count.

    Attributes:
      data: copies of the parameters, each with its share of the batch; None for the devices that the others leave.
      fsdp: shards of parameters, gathered layer by layer, each with its share of the batch.
      tensor: shards of heads, feed-forward width and vocabulary, all on the same rows.
    """

    data: int | None = None
    fsdp: int = 1
    tensor: int = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        for name in MESH_AXES:
            size = getattr(self, name)
            if size is not None and size < 1:
                yield name, f"must be at least 1, got {size}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharding:
    """Logical axis -> mesh axes. An array uses each mesh axis once, for the first of its axes that asks for it."""

    batch: tuple[str, ...] = ("data", "fsdp")
    sequence: tuple[str, ...] = ()
    position: tuple[str, ...] = ()
    embed: tuple[str, ...] = ("fsdp",)
    heads: tuple[str, ...] = ("tensor",)
    kv_heads: tuple[str, ...] = ("tensor",)
    head_dim: tuple[str, ...] = ()
    rank: tuple[str, ...] = ()
    ffn: tuple[str, ...] = ("tensor",)
    expert: tuple[str, ...] = ()
    vocab: tuple[str, ...] = ("tensor",)
    layer: tuple[str, ...] = ()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        for field in dataclasses.fields(self):
            for axis in getattr(self, field.name):
                if axis not in MESH_AXES:
                    yield field.name, f"{axis!r} is no mesh axis; known: {', '.join(MESH_AXES)}"
            if len(set(getattr(self, field.name))) < len(getattr(self, field.name)):
                yield field.name, f"names a mesh axis twice: {', '.join(getattr(self, field.name))}"


def make_mesh(mesh: Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Lays the devices out. Raises UserError when the mesh does not multiply to their number."""
    devices = jax.devices() if devices is None else devices
    sizes = {name: getattr(mesh, name) for name in MESH_AXES}
    known = math.prod(size for size in sizes.values() if size is not None)
    if sizes["data"] is None and len(devices) % known == 0:
        sizes["data"] = len(devices) // known
    if math.prod(size or 1 for size in sizes.values()) != len(devices) or sizes["data"] is None:
        asked = " x ".join(f"{name}={size}" for name, size in sizes.items())
        raise UserError(
            f"mesh: {asked} does not multiply to the {len(devices)} devices here; "
            "change mesh.data, mesh.fsdp or mesh.tensor (mesh.data=None takes what the others leave); "
            "XLA_FLAGS=--xla_force_host_platform_device_count=8 makes eight of a CPU, to try"
        )
    shape = tuple(sizes[name] or 1 for name in MESH_AXES)
    axis_types = (jax.sharding.AxisType.Auto,) * len(shape)
    if len(devices) == jax.device_count():
        return jax.make_mesh(shape, MESH_AXES, axis_types=axis_types)
    return jax.sharding.Mesh(np.asarray(devices).reshape(shape), MESH_AXES, axis_types=axis_types)


def mesh_axes(table: Sharding, axes: Sequence[str | None]) -> list[tuple[str, ...]]:
    """The mesh axes that each axis of an array is split over, by their logical names."""
    used: set[str] = set()
    split = []
    for axis in axes:
        free = tuple(m for m in getattr(table, axis) if m not in used) if axis else ()
        used.update(free)
        split.append(free)
    return split


def named(mesh: jax.sharding.Mesh, table: Sharding, axes: Sequence[str | None]) -> NamedSharding:
    """The placement of an array whose axes have these logical names."""
    return NamedSharding(mesh, PartitionSpec(*(split or None for split in mesh_axes(table, axes))))


def ways(mesh: jax.sharding.Mesh, table: Sharding, axis: str) -> int:
    """How many parts the mesh cuts a logical axis into."""
    return math.prod(mesh.shape[name] for name in getattr(table, axis))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The placement of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


@functools.lru_cache(maxsize=16)
def shard_activations(mesh: jax.sharding.Mesh, table: Sharding) -> Shard:
    """The function by which the model places its activations; the same one each time, so that jit knows it again."""
    if mesh.size == 1:
        return unsharded

    def shard(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, named(mesh, table, axes))

    shard.platform = mesh.devices.flat[0].platform  # type: ignore[attr-defined]
    return shard


def param_shardings(mesh: jax.sharding.Mesh, table: Sharding, axes: Any, shapes: Any) -> Any:
    """A placement for every parameter. Raises UserError where a mesh axis does not divide a parameter's.

    Args:
      mesh: the mesh.
      table: the table.
      axes: the tree of `model.transformer.logical_axes`.
      shapes: the tree of `model.transformer.abstract_params`.
    """

    def place(path: Any, shape: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> NamedSharding:
        for size, name, split in zip(shape.shape, names, mesh_axes(table, names), strict=True):
            ways = math.prod(mesh.shape[m] for m in split)
            if size % ways:
                raise UserError(
                    f"parameter {path_name(path)}: its {name} axis of {size} cannot be split {ways} ways over "
                    f"mesh axis {' x '.join(split)}; change the mesh, or keep the axis whole with "
                    f"--set 'sharding.{name}=()'"
                )
        return named(mesh, table, names)

    return jax.tree_util.tree_map_with_path(place, shapes, axes)


def like_params(abstract_state: Any, params: Any, shardings: Any, mesh: jax.sharding.Mesh) -> Any:
    """Placements for optimizer state: what mirrors a parameter lies as that parameter does, all else is replicated."""
    leaves = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings), strict=True)
    known = {path_name(path): (leaf.shape, sharding) for (path, leaf), sharding in leaves}

    def place(path: Any, leaf: Any) -> NamedSharding:
        for start in range(len(path)):
            found = known.get(path_name(path[start:]))
            if found and found[0] == leaf.shape:
                return found[1]
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def path_name(path: Any) -> str:
    """A tree path as dotted text: blocks.attention.query."""
    return ".".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
