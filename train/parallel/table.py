"""The sharding table, which maps logical axes to mesh axes, and the placements that follow from it.

The model gives every axis of parameters and activations a logical name; this table says which mesh axes each name is
split over. Parameters and activations have separate entries, and so have the positions in different parts of the model.
To try another parallelism, change the table or the mesh; the model stays as it is.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import jax
from jax.sharding import NamedSharding, PartitionSpec

from model.errors import UserError
from model.layout import Axes, AxisSharding, Layout, Pipeline
from model.parameters.names import path_name
from train.parallel.mesh import MESH_AXES, Mesh


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


Table = TypeVar("Table", bound=_Axes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterAxes(_Axes):
    """Logical axes of parameters -> mesh axes. An array uses each mesh axis once, for the first axis that asks for it.

    Attributes:
      embed: the model width.
      heads, kv_heads: query heads, key and value heads.
      head_dim: the width of a head.
      rank: the width of a latent (multi-head latent attention). It takes, in order, only those of its mesh axes that
        divide it, since a latent is narrow: one of 512 numbers on fsdp=16, expert=64 is split over fsdp alone.
      ffn: the feed-forward width.
      expert: experts.
      vocab: tokens of the vocabulary.
      position: rows of a table of learned positions.
      layer: layers of a stack. The parts run as the stages of a pipeline (model/stages/pipeline.py).
    """

    embed: tuple[str, ...] = ("fsdp", "expert", "context")
    heads: tuple[str, ...] = ("tensor",)
    kv_heads: tuple[str, ...] = ("tensor",)
    head_dim: tuple[str, ...] = ()
    rank: tuple[str, ...] = ("fsdp", "expert", "context")
    ffn: tuple[str, ...] = ("tensor",)
    expert: tuple[str, ...] = ("expert",)
    vocab: tuple[str, ...] = ("tensor",)
    position: tuple[str, ...] = ()
    layer: tuple[str, ...] = ("stage",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivationAxes(_Axes):
    """Logical axes of activations -> mesh axes. An array uses each mesh axis once, for the first axis that asks for it.

    Attributes:
      batch: rows. Inside the stages of a pipeline their mesh axes are left out.
      sequence: positions of the residual stream and its norms. `("tensor",)` here alone is the sequence parallelism of
        Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", section 4.2.2.
      query_sequence: positions of queries, and inside recurrent mixers.
      key_sequence: positions of keys and values while their queries are split; slots of a cache. With `()` a device
        gathers the keys and values of the sequence, layer by layer; with the axes of `query_sequence` they travel in a
        ring (model/kernels/mesh/ring.py). Let k be the bytes of the keys and values of a device's tokens, 2 K H numbers
        each, and n the devices of the sequence. To gather sends (n - 1) k forward, and as much backward; the ring sends
        them forward, backward, and their gradients in float32. In return the ring holds 2 k in place of n k, sends
        while it computes, and sends only as far as a window reaches. With grouped queries k is small, so `()` is the
        default, and the ring is for sequences whose keys do not fit. On TPUs splash takes gathered keys; all else runs
        the tiles of model/kernels/xla/tiles.py: no other library takes queries whose index only the device knows.
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

    batch: tuple[str, ...] = ("stage", "data", "fsdp", "expert")
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
      moments: the memory that holds the moments of the optimizer between steps. In that of the host they cost a device
        nothing but two copies in every step.
      chunks: chunks of consecutive layers that each stage of a pipeline runs. More of them shorten the bubble, and
        move parameters to their stages in every step (model/stages/pipeline.py).
      balanced: whether devices that share a sequence exchange queries for causal attention without a window, so that
        each has a chunk from the start and one from the end of the sequence, and as many visible keys as the others.
    """

    parameters: ParameterAxes = ParameterAxes()
    activations: ActivationAxes = ActivationAxes()
    moments: Literal["device", "host"] = "device"
    chunks: int = 1
    balanced: bool = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.chunks < 1:
            yield "chunks", f"must be at least 1, got {self.chunks}"


def num_stages(mesh: Mesh, table: Sharding) -> int:
    """The stages of a pipeline on a mesh, 1 without one; an axis without a size counts as 1."""
    return math.prod(getattr(mesh, name) or 1 for name in table.parameters.layer)


def unused_axes(mesh: Mesh, table: Sharding) -> list[str]:
    """The mesh axes of several devices that the table names nowhere: all of these devices would compute the same."""
    rows = [*vars(table.parameters).values(), *vars(table.activations).values()]
    return [name for name in MESH_AXES if (getattr(mesh, name) or 1) > 1 and not any(name in row for row in rows)]


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


def parameter_mesh_axes(
    table: ParameterAxes, sizes: Mapping[str, int], shape: Sequence[int], axes: Axes
) -> list[tuple[str, ...]]:
    """The mesh axes that each axis of a parameter is split over; `sizes` has the size of each mesh axis.

    They need not divide it: only a latent and an axis of groups that share a scale ("embed_groups") take those that do.
    """
    known = list(axes)
    for i, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        if axis == "rank" or (isinstance(axis, str) and axis.endswith("_groups")):
            over: tuple[str, ...] = ()
            for name in getattr(table, axis.removesuffix("_groups")):
                over += (name,) if size % math.prod(sizes[each] for each in (*over, name)) == 0 else ()
            known[i] = AxisSharding(over)
    return mesh_axes(table, tuple(known))


def _spec(mesh_axes: Sequence[tuple[str, ...]]) -> PartitionSpec:
    return PartitionSpec(*(names or None for names in mesh_axes))


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
      chunks: the table's chunks of layers.
      micro_batches: of a pipeline; None for as many as stages.
      in_stage: whether this is the layout of one stage, which is mapped over all of them.
      balanced: the table's field of this name.
    """

    mesh: jax.sharding.Mesh
    table: ActivationAxes
    parameters: ParameterAxes
    balanced: bool = True
    chunks: int = 1
    micro_batches: int | None = None
    in_stage: bool = False

    @property
    def platform(self) -> str:
        """The kind of the mesh's devices, which need not be the kind that this machine has."""
        return str(self.mesh.devices.flat[0].platform)

    @property
    def num_devices(self) -> int:
        """The devices of the mesh."""
        return int(self.mesh.size)

    def placement(self, axes: Axes) -> NamedSharding:
        """The placement of an activation whose axes have these names."""
        return NamedSharding(self.mesh, _spec(mesh_axes(self.table, axes)))

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
        return _axis_shardings(self.mesh, shape, parameter_mesh_axes(self.parameters, self.mesh.shape, shape, axes))

    @property
    def pipeline(self) -> Pipeline | None:
        """The stages that layers are split into, or None."""
        names = tuple(name for name in self.parameters.layer if self.mesh.shape[name] > 1)
        if not names:
            return None
        stages = AxisSharding(names, _num_shards(self.mesh, names))
        return Pipeline(stages, self.chunks, self.micro_batches or stages.ways, self.within_stage().ways("batch"))

    def with_micro_batches(self, count: int) -> "MeshLayout":
        """The same layout for a pipeline of so many micro-batches."""
        return dataclasses.replace(self, micro_batches=count)

    def within_stage(self) -> "MeshLayout":
        """The layout of the activations of one stage, without the axis of stages."""
        names = self.parameters.layer
        table, parameters = _without(self.table, names), _without(self.parameters, names)
        return dataclasses.replace(self, table=table, parameters=parameters, in_stage=True)

    def shard_map(
        self, function: Callable[..., Any], in_axes: tuple[Any, ...], out_axes: Any, *, checks_copies: bool = True
    ) -> Callable[..., Any]:
        """A function of whole arrays that runs `function` on each device's shards (`jax.shard_map`); see `Layout`."""
        if self.num_devices == 1:
            return function
        # jax cannot check copies in loops that are mapped over stages: it takes a constant of the body for one.
        checks_copies = checks_copies and not self.in_stage
        single = () if checks_copies else tuple(name for name, size in self.mesh.shape.items() if size == 1)
        spec = lambda axes: _with_axes(_spec(mesh_axes(self.table, axes)), single)  # noqa: E731
        specs = lambda tree: jax.tree.map(spec, tree, is_leaf=_is_axes)  # noqa: E731
        into, out = tuple(map(specs, in_axes)), specs(out_axes)
        return jax.shard_map(function, mesh=self.mesh, in_specs=into, out_specs=out, check_vma=checks_copies)


def _with_axes(spec: PartitionSpec, names: tuple[str, ...]) -> PartitionSpec:
    """A spec that names further mesh axes, of one device each: gradients are then not added up over them."""
    if not spec:
        return spec
    used = {name for over in spec for name in ((over,) if isinstance(over, str) else over or ())}
    first = (spec[0],) if isinstance(spec[0], str) else spec[0] or ()
    return PartitionSpec((*first, *(name for name in names if name not in used)) or None, *spec[1:])


def _without(table: Table, names: Sequence[str]) -> Table:
    """The table without some mesh axes."""
    kept = {name: tuple(axis for axis in axes if axis not in names) for name, axes in vars(table).items()}
    return type(table)(**kept)


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
    return MeshLayout(mesh, table.activations, table.parameters, table.balanced, table.chunks)


# ----------------------------------------------------------------------------------------- parameters and moments


def param_shardings(mesh: AnyMesh, table: Sharding, axes: Any, shapes: Any) -> Any:
    """A placement for every parameter.

    Raises UserError if the mesh does not divide an axis of a parameter, or has an expert axis for a model without
    experts.

    Args:
      mesh: the mesh.
      table: the table.
      axes: the tree of `model.transformer.logical_axes`.
      shapes: the tree of `model.transformer.abstract_params`.
    """

    def placement(path: Any, shape: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> NamedSharding:
        found = parameter_mesh_axes(table.parameters, mesh.shape, shape.shape, names)
        for size, name, over in zip(shape.shape, names, found, strict=True):
            ways = _num_shards(mesh, over)
            if size % ways:
                raise UserError(
                    f"parameter {path_name(path)}: its {name} axis of {size} cannot be split {ways} ways over "
                    f"mesh axis {' x '.join(over)}, but {_listed_divisors(size)}; change the mesh, or keep the axis "
                    f"whole with --set 'sharding.parameters.{name}=()'"
                )
        return NamedSharding(mesh, _spec(found))

    has_experts = any("expert" in names for names in jax.tree.leaves(axes, is_leaf=_is_axes))
    if (ways := mesh.shape.get("expert", 1)) > 1 and not has_experts:
        raise UserError(
            f"mesh: expert={ways} splits experts, and this model has none; use fsdp={ways} to split parameters and rows"
        )
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
        over_axes = parameter_mesh_axes(table.parameters, mesh.shape, shape.shape, names)
        for size, name, over in zip(shape.shape, names, over_axes, strict=True):
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
