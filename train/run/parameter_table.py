"""The parameter table: name, shape, logical axes, placement and count of every parameter; memory per device."""

import dataclasses
import math
from typing import Any

import jax

from model.cost import count_parameters, training_flops_per_token
from model.errors import UserError
from model.transformer import abstract_params, logical_axes
from train.experiment import Experiment
from train.parallel import sharding
from train.run.environment import host_memory
from train.state import abstract_state, state_shardings


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    spec: str
    count: int


def table(experiment: Experiment) -> list[Row]:
    """A row for every parameter, in the order of the tree."""
    shapes = jax.tree_util.tree_leaves_with_path(abstract_params(experiment.model))
    axes = jax.tree.leaves(logical_axes(experiment.model), is_leaf=lambda x: isinstance(x, tuple))
    rows = []
    for (path, leaf), names in zip(shapes, axes, strict=True):
        parts = ["+".join(split) or "-" for split in sharding.mesh_axes(experiment.sharding, names)]
        rows.append(Row(sharding.path_name(path), leaf.shape, names, " ".join(parts), math.prod(leaf.shape)))
    return rows


def as_json(experiment: Experiment) -> list[dict[str, Any]]:
    """The rows as JSON values, for RUN/parameters.json."""
    return [dataclasses.asdict(row) for row in table(experiment)]


def bytes_per_device(experiment: Experiment, mesh: jax.sharding.Mesh) -> dict[str, int]:
    """Bytes that one device holds: parameters, the rest of the state (moments), and gradients while it steps."""
    arguments = (experiment.model, experiment.optimizer, experiment.training.guard)
    placed = state_shardings(*arguments, mesh, experiment.sharding)

    def held(x: jax.ShapeDtypeStruct, s: jax.sharding.NamedSharding) -> int:
        return math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize

    state = abstract_state(*arguments)
    params = sum(jax.tree.leaves(jax.tree.map(held, state.params, placed.params)))
    everything = sum(jax.tree.leaves(jax.tree.map(held, state, placed)))
    return {"parameters": params, "optimizer": everything - params, "gradients": params}


def refuse_too_large(experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
    """Raises UserError for a state that alone takes more memory than there is, whatever else is in it.

    XLA ends the process for a shape whose size is no number of 64 bits, and a system may end one that fills its memory.
    """
    held = bytes_per_device(experiment, mesh)
    needed, device = held["parameters"] + held["optimizer"], jax.local_devices()[0]
    if device.platform == "cpu":
        needed, where, there = needed * jax.local_device_count(), "this machine", host_memory()
    else:
        where, there = f"each {device.device_kind}", (device.memory_stats() or {}).get("bytes_limit")
    if there is not None and needed > there:
        raise UserError(
            f"the parameters and the optimizer's state take {needed / 2**30:,.1f} GiB, and {where} has "
            f"{there / 2**30:,.1f} GiB; take a smaller model (--print_config lists its parameters), a format of fewer "
            "bits, or more devices (mesh.fsdp, mesh.tensor)"
        )


def describe(experiment: Experiment, mesh: jax.sharding.Mesh) -> str:
    """The table as text, with totals, FLOPs per token and memory per device."""
    rows = table(experiment)
    header = ("parameter", "shape", "axes", "mesh axes", "count")
    cells = [header] + [(r.name, "x".join(map(str, r.shape)), " ".join(r.axes), r.spec, f"{r.count:,}") for r in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    lines = ["  ".join((c.rjust if i == 4 else c.ljust)(widths[i]) for i, c in enumerate(row)) for row in cells]
    counts = count_parameters(experiment.model)
    active = f", {counts.active:,} used by a token" if counts.idle else ""
    length = experiment.data.sequence_length
    flops = training_flops_per_token(experiment.model, length)
    memory = bytes_per_device(experiment, mesh)
    mesh_text = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    lines += [
        "",
        f"parameters           {counts.total:,} ({counts.without_embedding:,} without embeddings{active})",
        f"FLOPs per token      {flops:,.0f} in training at length {length}",
        f"tokens per step      {experiment.data.batch_size * length:,}, padding included",
        f"mesh                 {mesh_text} ({mesh.size} device{'s' if mesh.size > 1 else ''})",
        "memory per device    "
        + ", ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in memory.items())
        + " (activations not counted)",
    ]
    return "\n".join(lines)
