"""The sharding table, which maps logical axes to mesh axes, and the placements that follow from it.

The model gives every axis of parameters and activations a logical name; this table says which mesh axes each name is
split over. Parameters and activations have separate entries, and so have the positions in different parts of the model.
To try another parallelism, change the table or the mesh; the model stays as it is.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from model.errors import UserError
from model.layout import Axes, AxisSharding, Layout
from model.parameters.names import path_name
from train.parallel.mesh import MESH_AXES


class _Axes:
    """Logical axis -> mesh axes. An array uses each mesh axis once, for the first of its axes that asks for it."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            names = getattr(self, field.name)
            for axis in names:
                if axis not in MESH_AXES:
                    yield field.name, f"{axis!r} is no mesh axis; known: {', '.join(MESH_AXES)}"
            if len(set(names)) < len(names):
                yield field.name, f"names a mesh axis twice: {', '.join(names)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterAxes(_Axes):
    """Logical axes of parameters -> mesh axes. An array uses each mesh axis once, for the first axis that asks for it.

    Attributes:
      embed: the model width.
      heads, kv_heads: query heads, key and value heads.
      head_dim: the width of a head.
      rank: the width of a latent (multi-head latent attention).
      ffn: the feed-forward width.
      expert: experts.
      vocab: tokens of the vocabulary.
      position: rows of a table of learned positions.
      layer: layers of a stack.
    """

    embed: tuple[str, ...] = ("fsdp", "expert", "context")
    heads: tuple[str, ...] = ("tensor",)
    kv_heads: tuple[str, ...] = ("tensor",)
    head_dim: tuple[str, ...] = ()
    rank: tuple[str, ...] = ()
    ffn: tuple[str, ...] = ("tensor",)
    expert: tuple[str, ...] = ("expert",)
    vocab: tuple[str, ...] = ("tensor",)
    position: tuple[str, ...] = ()
    layer: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivationAxes(_Axes):
    """Logical axes of activations -> mesh axes. An array uses each mesh axis once, for the first axis that asks for it.

    Attributes:
      batch: rows.
      sequence: positions of the residual stream and its norms. `("tensor",)` here alone is the sequence parallelism of
        Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", section 4.2.2.
      query_sequence: positions of queries, and inside recurrent mixers.
      key_sequence: positions of keys and values; slots of a cache.
      ffn_sequence: positions inside feed-forward layers.
      vocab_sequence: positions where tokens are looked up, and of logits.
      embed: the model width.
      heads, kv_heads: query heads, key and value heads.
      head_dim: the width of a head.
      ffn: the feed-forward width.
      expert: experts.
      vocab: tokens of the vocabulary.
      layer: layers of a stack, in a cache.
    """

    batch: tuple[str, ...] = ("data", "fsdp", "expert")
    sequence: tuple[str, ...] = ("context",)
    query_sequence: tuple[str, ...] = ("context",)
    key_sequence: tuple[str, ...] = ()
    ffn_sequence: tuple[str, ...] = ("context",)
    vocab_sequence: tuple[str, ...] = ("context",)
    embed: tuple[str, ...] = ()
    heads: tuple[str, ...] = ("tensor",)
    kv_heads: tuple[str, ...] = ("tensor",)
    head_dim: tuple[str, ...] = ()
    ffn: tuple[str, ...] = ("tensor",)
    expert: tuple[str, ...] = ("expert",)
    vocab: tuple[str, ...] = ("tensor",)
    layer: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharding:
    """The sharding table.

    Attributes:
      parameters: which mesh axes each axis of a parameter is split over; optimizer moments follow.
      activations: which mesh axes each axis of activations, batches and caches is split over.
    """

    parameters: ParameterAxes = ParameterAxes()
    activations: ActivationAxes = ActivationAxes()


def mesh_axes(table: ParameterAxes | ActivationAxes, axes: Axes) -> list[tuple[str, ...]]:
    """The mesh axes that each axis of an array is split over; `axes` has the logical names."""
    used: set[str] = set()
    found = []
    for axis in axes:
        requested = axis.mesh_axes if isinstance(axis, AxisSharding) else getattr(table, axis) if axis else ()
        free = tuple(m for m in requested if m not in used)
        used.update(free)
        found.append(free)
    return found


def _spec(table: ParameterAxes | ActivationAxes, axes: Axes) -> PartitionSpec:
    return PartitionSpec(*(names or None for names in mesh_axes(table, axes)))


AnyMesh = jax.sharding.Mesh | jax.sharding.AbstractMesh  # the second has sizes, and no devices


def _num_shards(mesh: AnyMesh, names: Sequence[str]) -> int:
    return math.prod(mesh.shape[name] for name in names)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The placement of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


# ---------------------------------------------------------------------------------------------------- activations


@dataclasses.dataclass(frozen=True)
class MeshLayout(Layout):
    """The layout of activations on a mesh.

    Attributes:
      mesh: the devices.
      table: the table's activation axes.
      parameters: the table's parameter axes, which decide the sharding of gradients.
    """

    mesh: jax.sharding.Mesh
    table: ActivationAxes
    parameters: ParameterAxes

    @property
    def platform(self) -> str:
        """The kind of the mesh's devices, which need not be the kind that this machine has."""
        platform: str = self.mesh.devices.flat[0].platform
        return platform

    def placement(self, axes: Axes) -> NamedSharding:
        """The placement of an activation whose axes have these names."""
        return NamedSharding(self.mesh, _spec(self.table, axes))

    def constrain(self, x: jax.Array, axes: Axes) -> jax.Array:
        """The same array, laid out by the names of its axes; an axis that the mesh does not divide stays whole."""
        if self.mesh.size == 1:
            return x
        even = (sharding.mesh_axes for sharding in self.axis_shardings(x.shape, axes))
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(*even)))

    def ways(self, axis: str) -> int:
        """How many parts an axis of activations is split into."""
        return _num_shards(self.mesh, self.mesh_axes(axis))

    def mesh_axes(self, axis: str) -> tuple[str, ...]:
        """The mesh axes that an axis of activations is split over: the names for collectives inside `shard_map`."""
        return tuple(name for name in getattr(self.table, axis) if self.mesh.shape[name] > 1)

    def axis_shardings(self, shape: tuple[int, ...], axes: Axes) -> tuple[AxisSharding, ...]:
        """How `constrain` splits each axis of an array: evenly or not at all, each mesh axis once."""
        return _axis_shardings(self.mesh, shape, mesh_axes(self.table, axes))

    def parameter_axis_shardings(self, shape: tuple[int, ...], axes: Axes) -> tuple[AxisSharding, ...]:
        """How each axis of a parameter, and of its gradient, is split."""
        return _axis_shardings(self.mesh, shape, mesh_axes(self.parameters, axes))

    def shard_map(self, function: Callable[..., Any], in_axes: tuple[Axes, ...], out_axes: Any) -> Callable[..., Any]:
        """A function of whole arrays that runs `function` on each device's shards (`jax.shard_map`); see `Layout`."""
        if self.mesh.size == 1:
            return function
        into = tuple(_spec(self.table, axes) for axes in in_axes)
        out = jax.tree.map(lambda axes: _spec(self.table, axes), out_axes, is_leaf=_is_axes)
        return jax.shard_map(function, mesh=self.mesh, in_specs=into, out_specs=out)


def _axis_shardings(
    mesh: jax.sharding.Mesh, shape: tuple[int, ...], mesh_axes: Sequence[tuple[str, ...]]
) -> tuple[AxisSharding, ...]:
    """The mesh axes, of more than one part, that divide each axis of an array; none if they do not divide it."""
    found = []
    for size, requested in zip(shape, mesh_axes, strict=True):
        names = tuple(name for name in requested if mesh.shape[name] > 1)
        ways = _num_shards(mesh, names)
        found.append(AxisSharding(names, ways) if size % ways == 0 else AxisSharding())
    return tuple(found)


def _is_axes(tree: Any) -> bool:
    return isinstance(tree, tuple) and all(axis is None or isinstance(axis, str | AxisSharding) for axis in tree)


def layout_of(mesh: jax.sharding.Mesh, table: Sharding) -> MeshLayout:
    """The layout of activations on a mesh."""
    return MeshLayout(mesh, table.activations, table.parameters)


# ----------------------------------------------------------------------------------------- parameters and moments


def param_shardings(mesh: AnyMesh, table: Sharding, axes: Any, shapes: Any) -> Any:
    """A placement for every parameter. Raises UserError if the mesh does not divide an axis of a parameter.

    Args:
      mesh: the mesh.
      table: the table.
      axes: the tree of `model.transformer.logical_axes`.
      shapes: the tree of `model.transformer.abstract_params`.
    """

    def placement(path: Any, shape: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> NamedSharding:
        for size, name, over in zip(shape.shape, names, mesh_axes(table.parameters, names), strict=True):
            ways = _num_shards(mesh, over)
            if size % ways:
                raise UserError(
                    f"parameter {path_name(path)}: its {name} axis of {size} cannot be split {ways} ways over "
                    f"mesh axis {' x '.join(over)}, but {_listed_divisors(size)}; change the mesh, or keep the axis "
                    f"whole with --set 'sharding.parameters.{name}=()'"
                )
        return NamedSharding(mesh, _spec(table.parameters, names))

    return jax.tree_util.tree_map_with_path(placement, shapes, axes)


def _listed_divisors(size: int) -> str:
    """The numbers of parts into which an axis splits evenly, the largest of them left out if there are many."""
    found = [str(ways) for ways in range(1, min(size, 4096) + 1) if size % ways == 0][:16]
    return f"{', '.join(found)} ways"


def uneven_axes(mesh: jax.sharding.Mesh, table: Sharding, axes: Any, shapes: Any) -> dict[str, list[int]]:
    """The logical axes of parameters that the mesh does not divide, and their sizes; arguments as above.

    The size of an axis is checked against the mesh axes that this parameter splits it over.
    """
    found: dict[str, set[int]] = {}

    def check(shape: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> None:
        for size, name, over in zip(shape.shape, names, mesh_axes(table.parameters, names), strict=True):
            if size % _num_shards(mesh, over):
                found.setdefault(name, set()).add(size)

    jax.tree.map(check, shapes, axes)
    return {name: sorted(sizes) for name, sizes in found.items()}


def optimizer_shardings(abstract_state: Any, params: Any, shardings: Any, mesh: jax.sharding.Mesh) -> Any:
    """Placements for optimizer state: arrays that mirror a parameter get its placement, all others are replicated."""
    leaves = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings), strict=True)
    known = {path_name(path): (leaf.shape, sharding) for (path, leaf), sharding in leaves}

    def placement(path: Any, leaf: Any) -> NamedSharding:
        for start in range(len(path)):
            found = known.get(path_name(path[start:]))
            if found and found[0] == leaf.shape:
                return found[1]
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(placement, abstract_state)
