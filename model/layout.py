"""How arrays lie on devices, as far as the model needs to know.

The model names the axes of its activations ("batch", "query_sequence", "heads", ...); a `Layout` says what becomes of
each name. This one is of a single device, where nothing is split; train/parallel/table.py has the one of a mesh.
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


# The logical names of an array's axes; None for an axis that is never split, an `AxisSharding` for one that is
# already known.
Axes = tuple[str | AxisSharding | None, ...]

# The names of positions, in every part of the model.
SEQUENCES = ("sequence", "query_sequence", "key_sequence", "ffn_sequence", "vocab_sequence")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of one device. It leaves no trace in a program. Equal layouts are one to `jax.jit`."""

    @property
    def platform(self) -> str:
        """The kind of the devices, such as "cpu", "gpu" or "tpu"."""
        return jax.default_backend()

    def constrain(self, x: jax.Array, axes: Axes) -> jax.Array:
        """The same array, laid out by the names of its axes."""
        return x

    def ways(self, axis: str) -> int:
        """How many parts an axis of activations is split into."""
        return 1

    def mesh_axes(self, axis: str) -> tuple[str, ...]:
        """The mesh axes that an axis of activations is split over: the names for collectives inside `map`."""
        return ()

    def axis_shardings(self, shape: tuple[int, ...], axes: Axes) -> tuple[AxisSharding, ...]:
        """How each axis of an array is split, as `constrain` lays it out: evenly or not at all, each mesh axis once."""
        return (AxisSharding(),) * len(axes)

    def parameter_axis_shardings(self, shape: tuple[int, ...], axes: Axes) -> tuple[AxisSharding, ...]:
        """How each axis of a parameter is split, and so of its gradient."""
        return (AxisSharding(),) * len(axes)

    def map(self, function: Callable[..., Any], in_axes: tuple[Axes, ...], out_axes: Any) -> Callable[..., Any]:
        """A function of whole arrays that runs another on the shards of each device.

        Args:
          function: takes the shards of its arguments and returns those of its results.
          in_axes: the names of the axes of each argument.
          out_axes: those of the result; a tree of them where the result is a tree.
        """
        return function

    @property
    def splits_tokens(self) -> bool:
        """Whether rows or positions are split, in any part of the model."""
        return any(self.ways(axis) > 1 for axis in ("batch", *SEQUENCES))


ONE_DEVICE = Layout()
