"""The mesh of a command that takes a run as it finds it: the one asked for, the run's own, or FSDP over all devices.

Evaluation, generation, conversion and the start of fine-tuning may run on other devices than the training did. Any
layout gives the same numbers to rounding, so one is taken that needs little memory on each device.
"""

import dataclasses
from typing import Any

import jax

from model.config import ModelConfig
from model.errors import UserError
from model.transformer import abstract_params, logical_axes
from train.parallel.mesh import Mesh, in_words, make_mesh
from train.parallel.table import MeshLayout, Sharding, layout_of, param_shardings, uneven_axes


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Devices laid out for a model.

    Attributes:
      option: the mesh as an option.
      mesh: the devices.
      table: which axes are split over which of the mesh's.
      note: a line for the user, where this is not all that was asked for; None where there is nothing to say.
    """

    option: Mesh
    mesh: jax.sharding.Mesh
    table: Sharding
    note: str | None = None

    @property
    def layout(self) -> MeshLayout:
        """How activations lie on the mesh."""
        return layout_of(self.mesh, self.table)


def asked_for(model: ModelConfig, option: Mesh, table: Sharding) -> Fitted:
    """The mesh that was asked for. Axes that `tensor` does not divide, such as an odd vocabulary, stay whole.

    Raises UserError when the mesh does not fit the devices here, or `fsdp` does not divide the model.
    """
    mesh = make_mesh(option)
    uneven = uneven_axes(mesh, table, logical_axes(model), abstract_params(model))
    named = {name: tuple(axis for axis in getattr(table.parameters, name) if axis != "tensor") for name in uneven}
    whole = {name: axes for name, axes in named.items() if axes != getattr(table.parameters, name)}
    if not whole:
        placements(model, mesh, table)
        return Fitted(option, mesh, table)
    table = dataclasses.replace(table, parameters=dataclasses.replace(table.parameters, **whole))
    placements(model, mesh, table)
    listed = ", ".join(f"{name} of {' and '.join(map(str, uneven[name]))}" for name in whole)
    return Fitted(option, mesh, table, f"tensor={option.tensor} does not divide {listed}: not split over tensor")


def own_or_fsdp(model: ModelConfig, option: Mesh, table: Sharding, devices_then: int | None) -> Fitted:
    """A run's own mesh where it fits the devices here, and FSDP over all of them elsewhere.

    Args:
      model: the model's options.
      option: the run's mesh.
      table: the run's.
      devices_then: how many devices the run had; None where nobody knows. A mesh whose `data` takes what is left fits
        any number, but is meant for this one: on more devices it would be as many copies of the parameters.
    """
    here = jax.device_count()
    if option.data is not None or option.fsdp * option.tensor == here or devices_then == here:
        try:
            placements(model, mesh := make_mesh(option), table)
        except UserError:
            pass
        else:
            return Fitted(option, mesh, table)
    found = fsdp(model, table)
    if here == 1:
        return found
    then = "" if devices_then is None else f" on {devices_then} device{'s' if devices_then > 1 else ''}"
    line = f"the run's mesh was {in_words(option)}{then}; taking --mesh={in_words(found.option)} for the {here} here"
    return dataclasses.replace(found, note=f"{line}; {found.note}" if found.note else line)


def fsdp(model: ModelConfig, table: Sharding) -> Fitted:
    """FSDP over all devices, or over the most that divide every axis which it splits; the rest are copies of those.

    A table that splits no parameter over `fsdp` gives way to the default one, with which no device holds them all.
    """
    if not any("fsdp" in axes for axes in dataclasses.asdict(table.parameters).values()):
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
            return Fitted(option, mesh, table)
        listed = ", ".join(f"{name} of {' and '.join(map(str, sizes))}" for name, sizes in uneven.items())
        times = f"each parameter is held {here // ways} times, since fsdp={here} does not divide {listed}"
        return Fitted(option, mesh, table, times)
    raise AssertionError("one part is a split of every axis")


def placements(model: ModelConfig, mesh: jax.sharding.Mesh, table: Sharding) -> Any:
    """A placement for every parameter of a model. Raises UserError where the mesh does not divide one."""
    return param_shardings(mesh, table, logical_axes(model), abstract_params(model))
