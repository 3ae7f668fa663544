"""The device mesh: its option, its flag, and its construction."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from model.errors import UserError

# From the axis whose devices lie furthest apart to the axis whose devices are neighbours.
MESH_AXES = ("stage", "data", "fsdp", "expert", "context", "tensor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """How many devices lie along each axis of the mesh; their product is the device count.

    Attributes:
      stage: parts of the layers, the stages of a pipeline for the micro-batches of `training.gradient_accumulation`.
      data: copies of the parameters, each with its share of the batch; None for all devices that the other axes leave.
      fsdp: shards of parameters, gathered layer by layer, each with its share of the batch.
      expert: shards of the experts, each with its share of the batch; all other parameters are split as by fsdp.
      context: shards of every sequence; parameters are split as by fsdp.
      tensor: shards of heads, feed-forward width and vocabulary, all on the same rows.
    """

    stage: int = 1
    data: int | None = None
    fsdp: int = 1
    expert: int = 1
    context: int = 1
    tensor: int = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for name in MESH_AXES:
            size = getattr(self, name)
            if size is not None and size < 1:
                yield name, f"must be at least 1, got {size}"


def parse_mesh(text: str) -> Mesh:
    """The mesh of a flag such as fsdp=4,tensor=2; if `data` is not given, it takes the devices that the others leave.

    Raises UserError for any other text.
    """
    sizes: dict[str, int] = {}
    for item in text.split(","):
        name, _, size = (part.strip() for part in item.partition("="))
        if name not in MESH_AXES or not size.isascii() or not size.isdigit() or int(size) < 1:
            raise UserError(
                f"--mesh={text}: {item.strip()!r} is no size of an axis; expected fsdp=4 or fsdp=4,tensor=2, with "
                f"whole numbers from 1 and the axes {', '.join(MESH_AXES)}"
            )
        if name in sizes:
            raise UserError(f"--mesh={text}: {name} is given twice; give it once")
        sizes[name] = int(size)
    return Mesh(**sizes)


def num_devices(mesh: Mesh) -> int:
    """The devices of a mesh whose `data`, if not given, is 1."""
    return math.prod(getattr(mesh, name) or 1 for name in MESH_AXES)


def format_mesh(mesh: Mesh | jax.sharding.Mesh) -> str:
    """A mesh in the form that `parse_mesh` reads, without the axes that have one device."""
    sizes = mesh.shape if isinstance(mesh, jax.sharding.Mesh) else dataclasses.asdict(mesh)
    named = [f"{name}={size}" for name, size in sizes.items() if size is not None and size > 1]
    return ",".join(named) or "data=1"


def make_mesh(mesh: Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Arranges the devices in a mesh. Raises UserError when the product of its axes is not their number."""
    devices = jax.devices() if devices is None else devices
    sizes = {name: getattr(mesh, name) for name in MESH_AXES}
    known = math.prod(size for size in sizes.values() if size is not None)
    if sizes["data"] is None and len(devices) % known == 0:
        sizes["data"] = len(devices) // known
    if math.prod(size or 1 for size in sizes.values()) != len(devices) or sizes["data"] is None:
        named = {name: size for name, size in sizes.items() if size is not None and (name == "data" or size != 1)}
        requested = " x ".join(f"{name}={size}" for name, size in named.items())
        raise UserError(
            f"mesh: {requested} does not multiply to the {len(devices)} devices here; change a size, "
            f"by --mesh=fsdp={len(devices)} (data takes what the others leave); "
            "XLA_FLAGS=--xla_force_host_platform_device_count=8 makes eight of a CPU, to try"
        )
    shape = tuple(sizes[name] or 1 for name in MESH_AXES)
    axis_types = (jax.sharding.AxisType.Auto,) * len(shape)
    if len(devices) == jax.device_count():
        return jax.make_mesh(shape, MESH_AXES, axis_types=axis_types)
    return jax.sharding.Mesh(np.asarray(devices).reshape(shape), MESH_AXES, axis_types=axis_types)
