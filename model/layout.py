"""The layout of arrays over devices, as far as the model needs it.

The model names the axes of its activations ("batch", "query_sequence", "heads", ...); a `Layout` says how each name is
split. The layout here is that of a single device, which splits nothing; train/parallel/table.py has that of a mesh.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class AxisSharding:
    """How an axis of a given array is split: over which mesh axes, and into how many parts."""

    mesh_axes: tuple[str, ...] = ()
    ways: int = 1


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """How layers are split into the stages of a pipeline, and a batch into the micro-batches that flow through them.

    A batch lists its rows by stage, then by shard of rows, then by micro-batch of that stage, then by row: each stage
    holds `micro_batches / stages` whole micro-batches outside of the layers, in order.

    Attributes:
      stage: the sharding of an axis over the stages; its `ways` are the stages.
      chunks: chunks of consecutive layers that each stage has; chunk c of all is in stage c % stages.
      micro_batches: a multiple of the stages.
      row_shards: how many ways the rows of a micro-batch are split.
    """

    stage: AxisSharding
    chunks: int
    micro_batches: int
    row_shards: int

    @property
    def stages(self) -> int:
        """The number of stages."""
        return self.stage.ways

    @property
    def ticks(self) -> int:
        """How often every stage runs one of its chunks: once for each micro-batch and chunk, and in the bubbles."""
        return self.micro_batches * self.chunks + self.stages - 1


# The logical names of an array's axes; None for an axis that is never split, an `AxisSharding` for an axis whose split
# is already known.
Axes = tuple[str | AxisSharding | None, ...]

# The logical names of the position axis in the parts of the model.
SEQUENCE_AXES = ("sequence", "query_sequence", "key_sequence", "ffn_sequence", "vocab_sequence")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of one device. It adds nothing to a program. `jax.jit` treats equal layouts as one."""

    @property
    def platform(self) -> str:
        """The kind of the devices, such as "cpu", "gpu" or "tpu"."""
        return jax.default_backend()

    @property
    def num_devices(self) -> int:
        """The number of devices."""
        return 1

    def constrain(self, x: jax.Array, axes: Axes) -> jax.Array:
        """Returns the same array, sharded by the names of its axes."""
        return x

    def ways(self, axis: str) -> int:
        """Returns the number of parts that an axis of activations is split into."""
        return 1

    def mesh_axes(self, axis: str) -> tuple[str, ...]:
        """Returns the mesh axes that split an axis of activations: the names for collectives inside `shard_map`."""
        return ()

    def axis_shardings(self, shape: tuple[int, ...], axes: Axes) -> tuple[AxisSharding, ...]:
        """Returns how `constrain` splits each axis of an array: evenly or not at all, with each mesh axis used once."""
        return (AxisSharding(),) * len(axes)

    def parameter_axis_shardings(self, shape: tuple[int, ...], axes: Axes) -> tuple[AxisSharding, ...]:
        """Returns how each axis of a parameter, and of its gradient, is split."""
        return (AxisSharding(),) * len(axes)

    @property
    def pipeline(self) -> Pipeline | None:
        """The stages that layers are split into, or None."""
        return None

    def with_micro_batches(self, count: int) -> "Layout":
        """Returns the same layout for a pipeline of so many micro-batches."""
        return self

    def within_stage(self) -> "Layout":
        """Returns the layout of the activations of one stage, without the axis of stages."""
        return self

    def shard_map(
        self, function: Callable[..., Any], in_axes: tuple[Any, ...], out_axes: Any, *, checks_copies: bool = True
    ) -> Callable[..., Any]:
        """Returns a function of whole arrays that runs `function` on the shards of each device.

        Args:
          function: takes the shards of its arguments and returns those of its results.
          in_axes: the names of the axes of each argument; a tree of them if the argument is a tree.
          out_axes: the names of the axes of the result; a tree of them if the result is a tree.
          checks_copies: whether JAX follows which arrays are the same on several devices (`check_vma` of
            `jax.shard_map`). Without, as kernels from libraries need it, gradients are added up over every mesh axis
            that does not split the argument.
        """
        return function

    @property
    def balanced(self) -> bool:
        """Whether devices that share a sequence exchange queries, so that all have as many visible keys to process."""
        return False

    @property
    def splits_tokens(self) -> bool:
        """Whether rows or positions are split, in any part of the model."""
        return any(self.ways(axis) > 1 for axis in ("batch", *SEQUENCE_AXES))


ONE_DEVICE = Layout()


def varying_axes(*arrays: jax.Array) -> tuple[str, ...]:
    """The mesh axes along which the values of any of these differ, as far as `shard_map` knows; () outside of it."""
    return tuple(sorted(frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in arrays))))


def vary(tree: Any, names: tuple[str, ...]) -> Any:
    """Returns the same arrays, whose values differ along these mesh axes as far as `shard_map` knows."""

    def cast(x: jax.Array) -> jax.Array:
        missing = tuple(name for name in names if name not in jax.typeof(x).manual_axis_type.varying)
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree)
