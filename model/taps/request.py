"""Taps: named intermediates that a caller keeps or edits, and that rematerialisation saves by name.

    forward(config, params, tokens_BT, taps=("final_norm", Tap("block_output", layers=(2, 5))))

    def steer(x_BTD, site):  # the same shape and dtype, differentiable in the arrays it closes over
        return x_BTD + (site.positions_BT >= 5)[..., None] * direction_D

    forward(config, params, tokens_BT, taps=Taps(edit={Tap("block_output", layers=(3,)): steer}))

Modules offer intermediates by name (`Context.tap`). A tap that no caller asks for adds nothing to the compiled program.
meanings.py has the list of all names.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from model.errors import UserError
from model.options.words import nearest
from model.taps.meanings import EARLIER, TAPS


@dataclasses.dataclass(frozen=True)
class Tap:
    """A tap in some layers.

    Attributes:
      name: one of `TAPS`.
      layers: the numbers of the layers from 0, negative ones from the last; None for all layers that have the tap. A
        list, a range or one number becomes a tuple.
    """

    name: str
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Converts the layers to a tuple of numbers."""
        if self.layers is not None:
            layers: tuple[Any, ...] = tuple(np.ravel(np.array(self.layers, object)))
            numbers = tuple(int(n) if isinstance(n, np.integer) else n for n in layers)
            object.__setattr__(self, "layers", numbers)

    def overlap(self, numbers: tuple[int, ...] | None) -> Literal["all", "some", "none"]:
        """Returns how many of these layers it names; None is outside of the layers: "all" for a tap without layers."""
        if numbers is None or self.layers is None:
            return "all" if self.layers is None and numbers != () else "none"
        count = sum(number in self.layers for number in numbers)
        return "none" if count == 0 else "all" if count == len(numbers) else "some"


@dataclasses.dataclass(frozen=True)
class TapSite:
    """The tokens and the layer of an edit.

    Attributes:
      name: the name of the tap.
      layer: the number of the layer, an int32 that may be traced; None outside of the layers.
      tokens_BT: the ids of the tokens; with a cache, of those that extend it.
      positions_BT: the positions of these tokens.
      segment_ids_BT: the document of each token; None where every row is one document.
    """

    name: str = ""
    layer: jax.Array | None = None
    tokens_BT: jax.Array | None = None
    positions_BT: jax.Array | None = None
    segment_ids_BT: jax.Array | None = None


# A function that maps the intermediate to one of the same shape and dtype.
Edit = Callable[[jax.Array, TapSite], jax.Array]


@dataclasses.dataclass(frozen=True)
class Taps:
    """The taps of a forward pass that its caller keeps and edits.

    Attributes:
      keep: the taps to return, after their edits. A tap of layers has a leading axis: all layers that have it, or the
        chosen ones in the given order. Taps of other layers are not held in memory.
      edit: for each tap, a function that replaces the intermediate; several edits of one layer run one after another.
        A cache holds the edited keys, values and latents.
    """

    keep: Iterable[str | Tap] = ()
    edit: Mapping[str | Tap, Edit] = dataclasses.field(default_factory=dict)

    def kept(self, name: str) -> Tap | None:
        """Returns the tap of this name among those to keep, or None."""
        return next((tap for tap in self.keep if isinstance(tap, Tap) and tap.name == name), None)

    def edits(self, name: str) -> list[tuple[Tap, Edit]]:
        """Returns the edits of the tap of this name, in order."""
        return [(tap, edit) for tap, edit in self.edit.items() if isinstance(tap, Tap) and tap.name == name]


NO_TAPS = Taps()


def resolve(taps: Taps | Iterable[str | Tap], num_layers: int) -> Taps:
    """Returns the same taps with a `Tap` for every name, and with layers counted from the first.

    Raises:
      UserError: for a layer that does not exist, or a tap that is kept twice.
    """
    if isinstance(taps, str):
        raise UserError(f"taps: expected names, got the text {taps!r}; write ({taps!r},)")
    taps = taps if isinstance(taps, Taps) else Taps(keep=taps)
    keep = tuple(_resolve_tap(tap, num_layers) for tap in taps.keep)
    names = [tap.name for tap in keep]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"taps: {name!r} is kept twice; name it once, with all of its layers")
    return Taps(keep, {_resolve_tap(tap, num_layers): edit for tap, edit in taps.edit.items()})


def _resolve_tap(tap: str | Tap, num_layers: int) -> Tap:
    tap = tap if isinstance(tap, Tap) else Tap(tap)
    if tap.layers is None:
        return tap
    for number in tap.layers:
        if not isinstance(number, int) or not -num_layers <= number < num_layers:
            valid = "0" if num_layers == 1 else f"0 to {num_layers - 1}, or -1 for the last"
            raise UserError(f"tap {tap.name!r}: no layer is called {number!r}; layers are {valid}")
    layers = tuple(number % num_layers for number in tap.layers)
    if not layers or len(set(layers)) < len(layers):
        fault = "names a layer twice" if layers else "names no layer"
        raise UserError(f"tap {tap.name!r}: layers={tap.layers} {fault}")
    return Tap(tap.name, layers)


def apply_edits(taps: Taps, name: str, value: jax.Array, numbers: tuple[int, ...] | None, site: TapSite) -> jax.Array:
    """Returns an intermediate after its edits, in code that is traced once for the layers `numbers`."""
    for tap, edit in taps.edits(name):
        overlap = tap.overlap(numbers)
        if overlap == "all":
            value = _apply_edit(edit, value, site)
        elif overlap == "some":
            is_chosen = jnp.any(jnp.asarray(tap.layers) == site.layer)
            change = functools.partial(_apply_edit, edit, site=site)
            value = jax.lax.cond(is_chosen, change, lambda x: x, value)
    return value


def _apply_edit(edit: Edit, value: jax.Array, site: TapSite) -> jax.Array:
    """Returns the edited value. Raises UserError if the edit changes shape or dtype."""
    after = edit(value, site)
    if not hasattr(after, "shape"):
        raise UserError(f"the edit of tap {site.name!r} gave {after!r}; it has to return an array")
    after = jnp.asarray(after)
    if (after.shape, after.dtype) != (value.shape, value.dtype):
        raise UserError(
            f"the edit of tap {site.name!r} was given {value.dtype} {value.shape} and gave {after.dtype} "
            f"{after.shape}; an edit keeps shape and dtype, as x.at[...].set(...) and y.astype(x.dtype) do"
        )
    return jax.lax.convert_element_type(after, value.dtype)  # a scan treats a weak type as another type


# For each tap, the layers that offered it while tracing (None for outside of the layers), and whether it is editable.
Offered = dict[str, dict[int | None, bool]]


def refuse_unused(taps: Taps, saved: Iterable[str], offered: Offered) -> None:
    """Raises UserError for a requested tap that does not exist, or that cannot be edited or saved."""
    for tap in taps.keep:
        assert isinstance(tap, Tap)
        _refuse_missing(tap, offered)
    editable = {
        name: {number: True for number, can_edit in layers.items() if can_edit} for name, layers in offered.items()
    }
    editable = {name: layers for name, layers in editable.items() if layers}
    for tap in taps.edit:
        assert isinstance(tap, Tap)
        _refuse_uneditable(tap.name, "edited", offered, editable)
        _refuse_missing(tap, editable)
    in_layers = {name: layers for name, layers in editable.items() if None not in layers}
    for name in saved:
        _refuse_uneditable(name, "saved", offered, in_layers)
        _refuse_missing(Tap(name), in_layers)


def _refuse_uneditable(name: str, action: str, offered: Offered, usable: Offered) -> None:
    if name in offered and name not in usable:
        reason = (
            "it is outside of the layers"
            if None in offered[name] and TAPS[name].editable
            else "it is not computed with"
        )
        raise UserError(f"tap {name!r} cannot be {action}: {reason}; {nearest(name, usable)}")


def _refuse_missing(tap: Tap, offered: Offered) -> None:
    if tap.name not in offered:
        raise UserError(f"no tap is called {tap.name!r}; {nearest(EARLIER.get(tap.name, tap.name), offered)}")
    layers = offered[tap.name]
    if tap.layers is None:
        return
    if None in layers:
        raise UserError(f"tap {tap.name!r} is outside of the layers; leave out layers={tap.layers}")
    for number in tap.layers:
        if number not in layers:
            having = ", ".join(str(n) for n in sorted(n for n in layers if n is not None))
            raise UserError(f"layer {number} has no tap {tap.name!r}; layers that have it: {having}")
