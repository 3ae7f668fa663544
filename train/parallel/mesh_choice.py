"""The mesh for a command that loads an existing run: the requested mesh, the run's own, or FSDP over all devices.

Evaluation, generation, conversion and the start of fine-tuning may run on other devices than the training did. Every
layout gives the same numbers up to rounding, so the command uses a layout that needs little memory on each device.
"""

import dataclasses
from typing import Any

import jax

from model.config import ModelConfig
from model.errors import UserError
from model.stages.pipeline import problems_of_stages
from model.transformer import abstract_params, logical_axes
from train.parallel.mesh import Mesh, format_mesh, make_mesh, num_devices
from train.parallel.table import (
    MeshLayout,
    Sharding,
    layout_of,
    num_stages,
    param_shardings,
    uneven_axes,
    unused_axes,
)
from train.terminal.formatting import format_counted


@dataclasses.dataclass(frozen=True)
class MeshChoice:
    """Devices laid out for a model.

    Attributes:
      option: the mesh as an option.
      mesh: the devices.
      table: the sharding table: which mesh axes each logical axis is split over.
      note: a line for the user if this differs from the request; otherwise None.
    """

    option: Mesh
    mesh: jax.sharding.Mesh
    table: Sharding
    note: str | None = None

    @property
    def layout(self) -> MeshLayout:
        """The sharding of activations over the mesh."""
        return layout_of(self.mesh, self.table)


def requested_mesh(model: ModelConfig, option: Mesh, table: Sharding) -> MeshChoice:
    """The requested mesh. Axes that `tensor` does not divide, such as an odd vocabulary, stay whole.

    The table of an earlier run may split nothing over an axis of the mesh; then the default table is taken.

    Raises UserError when the mesh does not fit the devices here, or `fsdp` does not divide the model.
    """
    table = Sharding() if unused_axes(option, table) else table
    if (stages := num_stages(option, table)) > 1:
        for path, message in problems_of_stages(model, stages, table.chunks):
            raise UserError(f"{path}: {message}")
    mesh = make_mesh(option)
    uneven = uneven_axes(mesh, table, logical_axes(model), abstract_params(model))
    named = {name: tuple(axis for axis in getattr(table.parameters, name) if axis != "tensor") for name in uneven}
    whole = {name: axes for name, axes in named.items() if axes != getattr(table.parameters, name)}
    if not whole:
        model_shardings(model, mesh, table)
        return MeshChoice(option, mesh, table)
    table = dataclasses.replace(table, parameters=dataclasses.replace(table.parameters, **whole))
    model_shardings(model, mesh, table)
    listed = ", ".join(f"{name} of {' and '.join(map(str, uneven[name]))}" for name in whole)
    return MeshChoice(option, mesh, table, f"tensor={option.tensor} does not divide {listed}: not split over tensor")


def run_mesh_or_fsdp(model: ModelConfig, option: Mesh, table: Sharding, devices_then: int | None) -> MeshChoice:
    """A run's own mesh if it fits the devices here and has no stages, otherwise FSDP over all of them.

    Stages serve training alone: they do not decode, and one batch at a time leaves most of them idle.

    Args:
      model: the model's options.
      option: the run's mesh.
      table: the run's sharding table.
      devices_then: the number of devices that the run had; None if unknown. A mesh with data=None fits any number of
        devices, but was meant for this number: on more devices it would only make more copies of the parameters.
    """
    here = jax.device_count()
    stages = num_stages(option, table)
    if stages == 1 and (option.data is not None or num_devices(option) == here or devices_then == here):
        try:
            model_shardings(model, mesh := make_mesh(option), table)
        except UserError:
            pass
        else:
            return MeshChoice(option, mesh, table)
    found = fsdp_mesh(model, table)
    if here == 1:
        return found
    then = "" if devices_then is None else f" on {format_counted(devices_then, 'device')}"
    line = (
        f"the run's mesh was {format_mesh(option)}{then}; taking --mesh={format_mesh(found.option)} for the {here} here"
    )
    return dataclasses.replace(found, note=f"{line}; {found.note}" if found.note else line)


def fsdp_mesh(model: ModelConfig, table: Sharding) -> MeshChoice:
    """FSDP over all devices, or over the largest number that divides every split axis; the other devices hold copies.

    If the table splits nothing but latents over `fsdp`, the default table is used: with it no device holds all
    parameters.
    """
    if not any("fsdp" in axes for name, axes in dataclasses.asdict(table.parameters).items() if name != "rank"):
        table = Sharding()
    here = jax.device_count()
    uneven: dict[str, list[int]] = {}
    for ways in sorted((n for n in range(1, here + 1) if here % n == 0), reverse=True):
        option = Mesh(data=None if ways == here else here // ways, fsdp=ways)
        mesh = make_mesh(option)
        found = uneven_axes(mesh, table, logical_axes(model), abstract_params(model))
        if found:
            uneven = uneven or found
            continue
        if ways == here:
            return MeshChoice(option, mesh, table)
        listed = ", ".join(f"{name} of {' and '.join(map(str, sizes))}" for name, sizes in uneven.items())
        times = f"each parameter is held {here // ways} times, since fsdp={here} does not divide {listed}"
        return MeshChoice(option, mesh, table, times)
    raise AssertionError("one part is a split of every axis")


def model_shardings(model: ModelConfig, mesh: jax.sharding.Mesh, table: Sharding) -> Any:
    """A placement for every parameter of a model. Raises UserError if the mesh does not divide a parameter."""
    return param_shardings(mesh, table, logical_axes(model), abstract_params(model))
