"""The parameter table: name, role, shape, axes, placement and count of every parameter; memory per device.

It says of each parameter, too, what moves it: the optimizer, the step by itself, or nothing.
"""

import dataclasses
import math
from typing import Any

import jax

from model.cost import count_parameters, training_flops_per_token
from model.errors import UserError
from model.parameters.specs import specs_by_name
from model.transformer import abstract_params
from train.experiment import Experiment
from train.parallel.table import parameter_mesh_axes
from train.run.environment import host_memory
from train.state import StateConfig, abstract_state, state_shardings
from train.terminal.formatting import format_counted


@dataclasses.dataclass(frozen=True)
class Row:
    """The row of one parameter; `moved_by` is "optimizer", "step" or, if it is frozen, "nothing"."""

    name: str
    role: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    spec: str
    count: int
    moved_by: str


def parameter_rows(experiment: Experiment) -> list[Row]:
    """A row for every parameter, in the order of the tree."""
    table = experiment.sharding.parameters
    sizes = {name: size or 1 for name, size in dataclasses.asdict(experiment.mesh).items()}
    shapes = jax.tree_util.tree_leaves_with_path(abstract_params(experiment.model))
    rows = []
    for (_, leaf), (name, spec) in zip(shapes, specs_by_name(StateConfig.of(experiment).specs).items(), strict=True):
        parts = ["+".join(names) or "-" for names in parameter_mesh_axes(table, sizes, leaf.shape, spec.axes)]
        moved_by = "optimizer" if spec.trained else "nothing" if spec.frozen else "step"
        rows.append(Row(name, spec.role, leaf.shape, spec.axes, " ".join(parts), math.prod(leaf.shape), moved_by))
    return rows


def as_json(experiment: Experiment) -> list[dict[str, Any]]:
    """The rows as JSON values, for RUN/parameters.json."""
    return [dataclasses.asdict(row) for row in parameter_rows(experiment)]


def whole_latents(experiment: Experiment) -> list[str]:
    """A line for each mesh axis that does not divide a latent, so that each device holds more of its matrices."""
    table, sizes = experiment.sharding.parameters, dataclasses.asdict(experiment.mesh)
    missed: dict[str, set[int]] = {}
    for row in parameter_rows(experiment):
        split = {name for part in row.spec.split() for name in part.split("+")}
        for size in (size for size, axis in zip(row.shape, row.axes, strict=True) if axis == "rank"):
            for name in table.rank:
                if (sizes[name] or 1) > 1 and name not in split:
                    missed.setdefault(name, set()).add(size)
    return [
        f"{name}={sizes[name]} does not divide the latents of {' and '.join(map(str, sorted(widths)))} numbers: their "
        f"matrices are not split over {name} (sharding.parameters.rank)"
        for name, widths in missed.items()
    ]


def bytes_per_device(experiment: Experiment, mesh: jax.sharding.Mesh) -> dict[str, int]:
    """Bytes that one device holds: parameters, the rest of the state (moments), and gradients of trained parameters."""
    state_config = StateConfig.of(experiment)
    shardings = state_shardings(state_config, mesh, experiment.sharding)

    def device_bytes(x: jax.ShapeDtypeStruct, s: jax.sharding.NamedSharding) -> int:
        return math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize

    state = abstract_state(state_config)
    trained, params, everything = (
        sum(jax.tree.leaves(jax.tree.map(device_bytes, tree, placements)))
        for tree, placements in (
            (state.params, shardings.params),
            (state.all_params, shardings.all_params),
            (state, shardings),
        )
    )
    return {"parameters": params, "optimizer": everything - params, "gradients": trained}


def check_memory(experiment: Experiment, mesh: jax.sharding.Mesh, copies: int = 1) -> None:
    """Raises UserError for states that alone take more memory than there is, even if nothing else is in memory.

    `copies` is their number.

    Otherwise XLA ends the process for a shape whose size does not fit in 64 bits, and the system may end a process that
    fills its memory.
    """
    memory = bytes_per_device(experiment, mesh)
    needed, device = copies * (memory["parameters"] + memory["optimizer"]), jax.local_devices()[0]
    if device.platform == "cpu":
        needed, owner, available = needed * jax.local_device_count(), "this machine", host_memory()
    else:
        owner, available = f"each {device.device_kind}", (device.memory_stats() or {}).get("bytes_limit")
    if available is not None and needed > available:
        raise UserError(
            f"the parameters and the optimizer's state take {needed / 2**30:,.1f} GiB, and {owner} has "
            f"{available / 2**30:,.1f} GiB; take a smaller model (--print_config lists its parameters), a format of "
            "fewer bits, or more devices (--mesh=fsdp=8)"
        )


def _split_over(axes: str, mesh: jax.sharding.Mesh) -> str:
    """The mesh axes of a row's spec that have more than one device."""
    return "+".join(name for name in axes.split("+") if mesh.shape.get(name, 1) > 1) or "-"


def describe(experiment: Experiment, mesh: jax.sharding.Mesh) -> str:
    """The table as text, with totals, FLOPs per token and memory per device."""
    rows = parameter_rows(experiment)
    header = ("parameter", "role", "shape", "axes", "mesh axes", "moved by", "count")
    cells = [header] + [
        (
            r.name,
            r.role,
            "x".join(map(str, r.shape)),
            " ".join(axis or "-" for axis in r.axes),
            " ".join(_split_over(part, mesh) for part in r.spec.split()),
            r.moved_by,
            f"{r.count:,}",
        )
        for r in rows
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    last = len(header) - 1
    lines = ["  ".join((c.rjust if i == last else c.ljust)(widths[i]) for i, c in enumerate(row)) for row in cells]
    counts = count_parameters(experiment.model)
    active = f", {counts.active:,} used by a token" if counts.inactive else ""
    frozen = sum(row.count for row in rows if row.moved_by == "nothing")
    still = f", {frozen:,} frozen" if frozen else ""
    length, texts = experiment.data.sequence_length, experiment.data.texts_of_row
    flops = training_flops_per_token(experiment.model, length, StateConfig.of(experiment).specs)
    memory = bytes_per_device(experiment, mesh)
    mesh_text = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1 or name == "data")
    lines += [
        "",
        f"parameters           {counts.total:,} ({counts.without_embedding:,} without embeddings{active}{still})",
        f"FLOPs per token      {flops:,.0f} in training at length {length}",
        f"tokens per step      {experiment.data.batch_size * texts * length:,}, padding included",
        f"mesh                 {mesh_text} ({format_counted(mesh.size, 'device')})",
        "memory per device    "
        + ", ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in memory.items())
        + " (activations not counted)",
    ]
    return "\n".join(lines)
