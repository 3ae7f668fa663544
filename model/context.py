"""The context of one forward pass, passed beside the activations: taps, losses, dropout keys, the layout.

Losses and measurements are sums over tokens weighted by `weights_BT`; a pass without weights has neither. Taps are
defined in model/taps/values.py.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from model.dropout import drop
from model.layout import ONE_DEVICE, Axes, Layout
from model.positions.rotary import RotaryTable
from model.taps.meanings import TAPS
from model.taps.values import NO_TAPS, Offered, Taps, Where, edited

if TYPE_CHECKING:  # attention imports this
    from model.kernels.visibility import Visibility


class Handed(NamedTuple):
    """An array (B, T, ...) that layers hand on beside the stream, and whether a layer has given it yet."""

    value: jax.Array
    given: jax.Array


@dataclasses.dataclass(kw_only=True)
class Surroundings:
    """The inputs that all layers of a kind share.

    Attributes:
      rotary: the cosines and sines of rotary positions, or None.
      segment_ids_BT: for layers with a recurrent state, the document of each token, counted from 0 in its row; None for
        one document.
      real_BT: for the same layers, False for tokens that do not change the state, which come last in a row; None if
        every token does.
    """

    rotary: RotaryTable | None = None
    segment_ids_BT: jax.Array | None = None
    real_BT: jax.Array | None = None


@dataclasses.dataclass(kw_only=True)
class Context(Surroundings):
    """The context of one forward pass, or of one layer, whose surroundings it then has.

    Attributes:
      index_BT: the index of each token in its sequence (int32), counted with the tokens in the cache.
      lengths_B: the number of tokens in each row's text; tokens at later positions are padding, which a cache may leave
        out. None for no padding.
      visibility: which keys each query of a layer without a pattern sees; None if no layer has attention.
      layers: the surroundings of each kind of layer.
      dropout_key: a random key in training, None in evaluation.
      layout: the layout of activations over devices.
      taps: the taps that the caller asked for, `resolved`.
      saved: the names of the taps that rematerialisation saves.
      where: the tokens and their positions, for edits.
      layer: the number of the layer, which may be traced; None outside of the layers.
      numbers: the layers for which this code is traced, one or all of a scan; None outside of the layers, () in a
        module whose taps cannot be asked for.
      offered: for every tap, the layers that offered it while tracing.
      kept: the intermediates to return, by name.
      weights_BT: how much each token counts in losses and measurements (float32), or None.
      losses: the auxiliary losses of training, by name: scalars, summed over tokens that count.
      measured: sums over tokens that count, by name.
      handed: the arrays that earlier layers handed on, by name; mixers declare the names (`hands_on`).
    """

    index_BT: jax.Array
    lengths_B: jax.Array | None = None
    visibility: "Visibility | None" = None
    layers: Mapping[Any, Surroundings] = dataclasses.field(default_factory=dict)
    dropout_key: jax.Array | None = None
    layout: Layout = ONE_DEVICE
    taps: Taps = NO_TAPS
    saved: frozenset[str] = frozenset()
    where: Where = Where()
    layer: jax.Array | int | None = None
    numbers: tuple[int, ...] | None = None
    offered: Offered = dataclasses.field(default_factory=dict)
    kept: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights_BT: jax.Array | None = None
    losses: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    measured: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    handed: dict[str, Handed] = dataclasses.field(default_factory=dict)

    @property
    def platform(self) -> str:
        """The kind of the devices that run the pass, such as "cpu", "gpu" or "tpu"."""
        return self.layout.platform

    def shard(self, x: jax.Array, axes: Axes) -> jax.Array:
        """Returns the same activation, sharded over the devices by the names of its axes."""
        return self.layout.constrain(x, axes)

    def tap(self, name: str, value: jax.Array) -> jax.Array:
        """Offers an intermediate under a name. Returns the value to continue with: the same unless it is edited."""
        self._offer(name, editable=True)
        if self.taps.edit:
            layer = None if self.layer is None else jnp.asarray(self.layer, jnp.int32)
            where = dataclasses.replace(self.where, name=name, layer=layer)
            value = edited(self.taps, name, value, self.numbers, where)
        if name in self.saved:
            value = checkpoint_name(value, name)
        self._keep(name, lambda: value)
        return value

    def offer(self, name: str, make: Callable[[], jax.Array]) -> None:
        """Offers an intermediate that the model does not compute with; it is made only if it is kept."""
        self._offer(name, editable=False)
        self._keep(name, make)

    def _offer(self, name: str, editable: bool) -> None:
        assert name in TAPS, f"model/taps/meanings.py lists no tap {name!r}"
        assert TAPS[name].editable == editable, f"tap {name!r} is listed otherwise in model/taps/meanings.py"
        self.offered.setdefault(name, {}).update(
            dict.fromkeys((None,) if self.numbers is None else self.numbers, editable)
        )

    def _keep(self, name: str, make: Callable[[], jax.Array]) -> None:
        tap = self.taps.kept(name)
        if tap is not None and tap.share(self.numbers) != "none":
            self.kept[name] = make()

    def add_loss(self, name: str, total: jax.Array) -> None:
        """Adds an auxiliary loss: a scalar sum over tokens, later divided by the same count as the main loss."""
        self.losses[name] = self.losses[name] + total if name in self.losses else total

    def measure(self, name: str, value: jax.Array) -> None:
        """Keeps a sum over tokens, of any shape; the sum over a batch is the sum over its parts."""
        self.measured[name] = value

    def hand_on(self, name: str, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the array of the first layer, and whether this layer is the first, which hands on `value`."""
        before = self.handed[name]
        value = jnp.where(before.given, before.value, value.astype(before.value.dtype))
        self.handed[name] = Handed(value, jnp.ones((), bool))
        return value, ~before.given

    def next_dropout_key(self) -> jax.Array | None:
        """Returns a new key for each use of dropout in training, None in evaluation."""
        if self.dropout_key is None:
            return None
        self.dropout_key, key = jax.random.split(self.dropout_key)
        return key

    def dropout(self, x: jax.Array, rate: float) -> jax.Array:
        """Drops entries in training; returns x itself in evaluation."""
        return drop(x, rate, self.next_dropout_key() if rate else None)

    def for_layer(
        self,
        number: jax.Array | int,
        kind: Any,
        handed: Mapping[str, Handed] | None = None,
        numbers: tuple[int, ...] = (),
    ) -> "Context":
        """Returns the context of one layer: its surroundings, handed arrays, key, taps, losses and measurements.

        Args:
          number: the number of the layer.
          kind: the kind of the layer, which has its surroundings.
          handed: the arrays that earlier layers handed on.
          numbers: all layers for which this code is traced; () for a module that is no layer of the model, whose taps
            cannot be asked for.
        """
        key = None if self.dropout_key is None else jax.random.fold_in(self.dropout_key, number)
        own: dict[str, Any] = {
            "kept": {},
            "losses": {},
            "measured": {},
            "dropout_key": key,
            "handed": dict(handed or {}),
            "layer": number,
            "numbers": numbers,
        }
        return dataclasses.replace(self, **vars(self.layers[kind]), **own)
