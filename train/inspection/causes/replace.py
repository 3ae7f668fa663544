"""Replaces a tap in the rows of a batch: each row at a layer of its own, at some positions, in some units.

A unit is a head of a tap (B, T, N, H), and all of the vector of a tap (B, T, D). A sweep over layers, positions and
heads is then a few runs of one compiled program.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from model.options.words import nearest
from model.taps.meanings import TAPS
from model.taps.request import Edit, Tap, Taps, TapSite
from train.inspection.subject import Subject, as_float32, chosen_layers, layers_with

ROWS = 8  # replacements at a time
OF_HEADS = ("BTNH", "BTKH")  # the axes of taps that have heads


@dataclasses.dataclass(frozen=True)
class Replacement:
    """A replacement in a text: a layer, the positions, the units (None for all).

    `positions` and `units` are numbers from 0.
    """

    layer: int
    positions: tuple[int, ...]
    units: tuple[int, ...] | None = None


# Measures the output of a batch: (parameters, output of `stream`) -> (B, ...).
Measure = Callable[[Any, Any], jax.Array]


def check_tap(config: ModelConfig, name: str) -> None:
    """Raises UserError for a tap that cannot be replaced, with the nearest name of one that can."""
    editable = [tap for tap, meaning in TAPS.items() if meaning.editable and meaning.axes[:2] == "BT"]
    if name not in editable:
        raise UserError(f"--taps: no tap {name[:80]!r} can be replaced; {nearest(name, editable)}")


def chosen_taps(config: ModelConfig, taps: Sequence[str] | None, usual: Sequence[str]) -> list[str]:
    """The taps to replace: those given, or those of the usual ones that the model has.

    Raises UserError for one that cannot be replaced, one that is named twice, and for none.
    """
    if not taps:
        there = [name for name in usual if layers_with(config, name)]
        if taps is not None:
            raise UserError(f"--taps is empty; give names of taps, such as {','.join(there)}")
        if not there:
            raise UserError(f"this model has none of the taps {', '.join(usual)}; name others with --taps")
        return there
    for name in taps:
        check_tap(config, name)
    if len(set(taps)) < len(taps):
        raise UserError(f"--taps={','.join(taps)} names a tap twice; name it once")
    return list(taps)


def num_units(config: ModelConfig, name: str, layer: int) -> int:
    """The units of a tap in a layer: its heads, or 1."""
    return layers_with(config, name)[layer][2] if TAPS[name].axes in OF_HEADS else 1


def groups_of(config: ModelConfig, name: str, layers: Sequence[int] | None) -> list[tuple[int, ...]]:
    """The layers to replace a tap in, in groups whose taps have one shape. Raises UserError for missing ones."""
    check_tap(config, name)
    known, numbers = layers_with(config, name), chosen_layers(config, name, layers)
    return [tuple(n for n in numbers if known[n] == shape) for shape in dict.fromkeys(known[n] for n in numbers)]


def replacing(name: str, layers: Sequence[int], layer_B: Any, mask_BTU: Any, values: Any) -> Edit:
    """An edit of a tap in `layers`: row b of layer `layer_B[b]` gets `values` of that layer where the mask is True.

    Args:
      name: the tap.
      layers: numbers of layers whose taps have one shape.
      layer_B: the layer of each row.
      mask_BTU: positions and units.
      values: for each of `layers` the values of a text, (L, T, ...), or for each row, (L, B, T, ...).
    """
    numbers = jnp.asarray(layers)

    def edit(x: jax.Array, site: TapSite) -> jax.Array:
        row = jnp.argmax(numbers == site.layer)
        mask = mask_BTU & (layer_B == site.layer)[:, None, None]
        mask = mask.reshape(*mask.shape, *(1,) * (x.ndim - 3))
        return jnp.where(mask, values[row].astype(x.dtype), x)

    return edit


class Replacer:
    """The compiled program of replacements of one tap in layers of one shape."""

    def __init__(self, subject: Subject, name: str, layers: tuple[int, ...], measure: Measure) -> None:
        """Args: the model, the tap, its layers, the measure of the output."""
        self.subject, self.name, self.layers = subject, name, layers
        self._units = num_units(subject.config, name, layers[0])

        def run(params: Any, tokens_BT: Any, layer_B: Any, mask_BTU: Any, values: Any) -> tuple[jax.Array, jax.Array]:
            tap = Tap(name, layers=layers)
            taps = Taps(keep=(tap,), edit={tap: replacing(name, layers, layer_B, mask_BTU, values)})
            output = subject.stream(params, tokens_BT, taps)
            # The activations come from the same program as the measure, so that a patch by them is exact.
            return measure(params, output), as_float32(output.taps[name][:, 0])

        self._run = subject.compiled(run)

    def activations(self, ids: np.ndarray) -> np.ndarray:
        """The tap of a text, int32 (T,), in all of the layers: (L, T, ...)."""
        return np.asarray(self._without(ids)[1])

    def unchanged(self, ids: np.ndarray) -> np.ndarray:
        """The measure of the text without a replacement."""
        return np.asarray(self._without(ids)[0][0])

    def _without(self, ids: np.ndarray) -> Any:
        shape = layers_with(self.subject.config, self.name)[self.layers[0]]
        nothing = np.zeros((len(self.layers), len(ids), *shape[2:]), np.float32)
        mask = np.zeros((ROWS, len(ids), self._units), bool)
        tokens_BT = np.broadcast_to(ids.astype(np.int32), (ROWS, len(ids)))
        return self._run(tokens_BT, np.full(ROWS, -1, np.int32), mask, nothing)

    def __call__(self, ids: np.ndarray, values: np.ndarray, replacements: Sequence[Replacement]) -> np.ndarray:
        """The measures of a text, one for each replacement by `values` (L, T, ...).

        Raises UserError for layers, positions and units that are not there, and for none of them.
        """
        for each in replacements:
            self._check(each, len(ids))
        tokens_BT = np.broadcast_to(ids.astype(np.int32), (ROWS, len(ids)))
        found = []
        for first in range(0, len(replacements), ROWS):
            some = list(replacements[first : first + ROWS])
            mask = np.zeros((ROWS, len(ids), self._units), bool)
            layer_B = np.full(ROWS, -1, np.int32)
            for row, each in enumerate(some):
                units = range(self._units) if each.units is None else each.units
                mask[np.ix_([row], list(each.positions), list(units))] = True
                layer_B[row] = each.layer
            found.append(np.asarray(self._run(tokens_BT, layer_B, mask, values)[0])[: len(some)])
        return np.concatenate(found)

    def changes(self, before: np.ndarray, values: np.ndarray, each: Replacement) -> bool:
        """Whether a replacement changes an activation of a text, whose activations are `before` (L, T, ...)."""
        row = self.layers.index(each.layer)
        old, new = (
            before[row][list(each.positions)],
            np.broadcast_to(values[row], before[row].shape)[list(each.positions)],
        )
        if each.units is not None:
            old, new = old[:, list(each.units)], new[:, list(each.units)]
        return bool((old != new).any())

    def _check(self, each: Replacement, length: int) -> None:
        if each.layer not in self.layers:
            listed = ", ".join(map(str, self.layers))
            raise UserError(f"tap {self.name!r}: no layer {each.layer} to replace it in; layers are {listed}")
        if not each.positions or each.units == ():
            raise UserError(f"tap {self.name!r}: a replacement at no position or in no unit changes nothing")
        for position in each.positions:
            if not 0 <= position < length:
                raise UserError(f"position {position} is not there: the text has tokens 0 to {length - 1}")
        for unit in each.units or ():
            if not 0 <= unit < self._units:
                raise UserError(
                    f"tap {self.name!r}: no head {unit} in layer {each.layer}; heads are 0 to {self._units - 1}"
                )


class Part(NamedTuple):
    """A part of a replacement: layers whose taps have one shape, values (L, T, ...), positions and units (L, T, U)."""

    layers: tuple[int, ...]
    values: np.ndarray
    mask_LTU: np.ndarray


def replaced_together(subject: Subject, name: str, ids: np.ndarray, parts: Sequence[Part], measure: Measure) -> Any:
    """The measure of a text, int32 (T,), when a tap is replaced in several layers and units at once."""

    def run(params: Any, tokens_BT: jax.Array, values: Any, masks: Any) -> jax.Array:
        edits: dict[str | Tap, Edit] = {
            Tap(name, layers=part.layers): _replacing_at(part.layers, mask_LTU, values_LT)
            for part, values_LT, mask_LTU in zip(parts, values, masks, strict=True)
        }
        return measure(params, subject.stream(params, tokens_BT, Taps(edit=edits)))

    values, masks = ([getattr(part, field) for part in parts] for field in ("values", "mask_LTU"))
    return subject.compiled(run)(ids[None].astype(np.int32), values, masks)[0]


def _replacing_at(layers: Sequence[int], mask_LTU: jax.Array, values: jax.Array) -> Edit:
    """An edit that replaces a tap (B, T, ...) where the mask of its layer is True."""
    numbers = jnp.asarray(layers)

    def edit(x: jax.Array, site: TapSite) -> jax.Array:
        row = jnp.argmax(numbers == site.layer)
        mask = mask_LTU[row].reshape(mask_LTU.shape[1:] + (1,) * (x.ndim - 3))
        return jnp.where(mask, values[row].astype(x.dtype), x)

    return edit


def refuse_no_change(name: str, changed: Sequence[bool], why: str) -> None:
    """Raises UserError when none of the replacements of a tap changes an activation."""
    if not any(changed):
        raise UserError(f"tap {name!r}: no replacement changes any activation, because {why}")
