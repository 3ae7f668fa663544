"""The context of one forward pass, passed beside the activations: taps, losses, dropout keys, the layout.

Losses and measurements are sums over tokens weighted by `weights_BT`; a pass without weights has neither. Taps are
defined in model/taps/request.py.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from model.dropout import drop
from model.kernels.selection import Kernels
from model.layout import ONE_DEVICE, Axes, Layout
from model.positions.rotary import RotaryTable
from model.stages.micro_batches import in_micro_batches
from model.taps.meanings import TAPS
from model.taps.request import NO_TAPS, Offered, Taps, TapSite, apply_edits

if TYPE_CHECKING:  # attention imports this
    from model.encoder.source import EncodedSource, Source
    from model.kernels.visibility import Visibility


class CrossLayerArray(NamedTuple):
    """An array (B, T, ...) that layers share beside the stream, and whether a layer has set it yet."""

    value: jax.Array
    is_set: jax.Array


class Rows(NamedTuple):
    """The arguments of `model.transformer.stream` that have an entry for each row."""

    tokens_BT: jax.Array
    positions_BT: jax.Array | None = None
    segment_ids_BT: jax.Array | None = None
    lengths_B: jax.Array | None = None
    text_lengths_B: jax.Array | None = None
    weights_BT: jax.Array | None = None
    prefix_BT: jax.Array | None = None
    source: "Source | None" = None


def array_of_layer(name: str, number: int) -> str:
    """Returns the name among cross-layer arrays of an array that a given layer hands on."""
    return f"{name} of layer {number}"


@dataclasses.dataclass(kw_only=True)
class LayerInputs:
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
class Context(LayerInputs):
    """The context of one forward pass, or of one layer, whose inputs it then has.

    Attributes:
      index_BT: the index of each token in its sequence (int32), counted with the tokens in the cache.
      lengths_B: the number of tokens in each row's text; tokens at later positions are padding, which a cache may leave
        out. None for no padding.
      visibility: which keys each query of a layer without a pattern sees; None if no layer has attention.
      layer_inputs: the inputs of each kind of layer.
      rows: the arguments from which `inputs_of_rows` (model/token_positions.py) makes all that depends on rows; None
        where no layer runs in a pipeline.
      dropout_key: a random key in training, or one for each micro-batch of a pipeline (M,); None in evaluation.
      layout: the layout of activations over devices.
      kernels: the kernels to choose from.
      taps: the taps that the caller asked for, resolved by `resolve`.
      saved_taps: the names of the taps that rematerialisation saves.
      site: the tokens and their positions, for edits.
      layer: the number of the layer, which may be traced; None outside of the layers.
      traced_layers: the layers for which this code is traced, one or all of a scan; None outside of the layers, () in a
        module whose taps cannot be asked for.
      offered_taps: for every tap, the layers that offered it while tracing.
      kept_taps: the intermediates to return, by name.
      weights_BT: how much each token counts in losses and measurements (float32), or None.
      losses: the auxiliary losses of training, by name: scalars, summed over tokens that count.
      measurements: sums over tokens that count, by name.
      per_layer_BTP: the vectors of the tokens for this layer (model/vocabulary/per_layer.py); None in a model without.
      cross_layer: the arrays that earlier layers share, by name; mixers declare the names (`cross_layer_arrays`).
      source: the encoded source that layers attend to; None in a model without, or where a cache has it.
      shared_bias: the trained numbers of positions that all layers share (model/positions/shared.py), or None.
    """

    index_BT: jax.Array
    lengths_B: jax.Array | None = None
    visibility: "Visibility | None" = None
    layer_inputs: Mapping[Any, LayerInputs] = dataclasses.field(default_factory=dict)
    rows: Rows | None = None
    dropout_key: jax.Array | None = None
    layout: Layout = ONE_DEVICE
    kernels: Kernels = Kernels()
    taps: Taps = NO_TAPS
    saved_taps: frozenset[str] = frozenset()
    site: TapSite = TapSite()
    layer: jax.Array | int | None = None
    traced_layers: tuple[int, ...] | None = None
    offered_taps: Offered = dataclasses.field(default_factory=dict)
    kept_taps: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights_BT: jax.Array | None = None
    losses: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    measurements: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    per_layer_BTP: jax.Array | None = None
    cross_layer: dict[str, CrossLayerArray] = dataclasses.field(default_factory=dict)
    source: "EncodedSource | None" = None
    shared_bias: jax.Array | None = None

    def shard(self, x: jax.Array, axes: Axes) -> jax.Array:
        """Returns the same activation, sharded over the devices by the names of its axes."""
        return self.layout.constrain(x, axes)

    def tap(self, name: str, value: jax.Array) -> jax.Array:
        """Offers an intermediate under a name. Returns the value to continue with: the same unless it is edited."""
        self._offer(name, editable=True)
        if self.taps.edit:
            layer = None if self.layer is None else jnp.asarray(self.layer, jnp.int32)
            site = dataclasses.replace(self.site, name=name, layer=layer)
            value = apply_edits(self.taps, name, value, self.traced_layers, site)
        if name in self.saved_taps:
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
        self.offered_taps.setdefault(name, {}).update(
            dict.fromkeys((None,) if self.traced_layers is None else self.traced_layers, editable)
        )

    def _keep(self, name: str, make: Callable[[], jax.Array]) -> None:
        tap = self.taps.kept(name)
        if tap is not None and tap.overlap(self.traced_layers) != "none":
            self.kept_taps[name] = make()

    def add_loss(self, name: str, total: jax.Array) -> None:
        """Adds an auxiliary loss: a scalar sum over tokens, later divided by the same count as the main loss."""
        self.losses[name] = self.losses[name] + total if name in self.losses else total

    def measure(self, name: str, value: jax.Array) -> None:
        """Keeps a sum over tokens, of any shape; the sum over a batch is the sum over its parts."""
        self.measurements[name] = value

    def share_first(self, name: str, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the array of the first layer, and whether this layer is the first, which shares `value`."""
        before = self.cross_layer[name]
        value = jnp.where(before.is_set, before.value, value.astype(before.value.dtype))
        self.cross_layer[name] = CrossLayerArray(value, jnp.ones((), bool))
        return value, ~before.is_set

    def hand_on(self, **arrays: Any) -> None:
        """Gives arrays of this layer to the later layers that take them, where any do (`MixerOption.taken_arrays`).

        In a pass without a cache they have the shapes that the option of the layer declares; in a pass with one, whose
        layers are not scanned, they may be any trees of arrays.
        """
        for number in self.traced_layers or ():
            for name, value in arrays.items():
                key = array_of_layer(name, number)
                if (before := self.cross_layer.get(key)) is None:
                    continue
                is_this = jnp.asarray(self.layer == number)
                if len(self.traced_layers or ()) > 1:
                    value = jnp.where(is_this, value.astype(before.value.dtype), before.value)
                self.cross_layer[key] = CrossLayerArray(value, before.is_set | is_this)

    def take(self, name: str, number: int) -> Any:
        """Returns what an earlier layer handed on under a name."""
        return self.cross_layer[array_of_layer(name, number)].value

    def next_dropout_key(self) -> jax.Array | None:
        """Returns a new key for each use of dropout in training, None in evaluation."""
        if self.dropout_key is None:
            return None
        if self.dropout_key.ndim:
            self.dropout_key, key = jnp.unstack(jax.vmap(jax.random.split)(self.dropout_key), axis=1)
        else:
            self.dropout_key, key = jax.random.split(self.dropout_key)
        return key

    def dropout(self, x: jax.Array, rate: float) -> jax.Array:
        """Drops entries in training; returns x itself in evaluation."""
        key = self.next_dropout_key() if rate else None
        if key is None or not key.ndim:
            return drop(x, rate, key)
        return in_micro_batches(lambda key, x: drop(x, rate, key), self.layout, key, x)

    def with_shared_bias(self, table: Any) -> "Context":
        """Returns the context of layers that share a table of positions, a parameter; the same for None."""
        return self if table is None else dataclasses.replace(self, shared_bias=table[...])

    def for_layer(
        self,
        number: jax.Array | int,
        kind: Any,
        cross_layer: Mapping[str, CrossLayerArray] | None = None,
        traced_layers: tuple[int, ...] = (),
        per_layer_BTP: jax.Array | None = None,
    ) -> "Context":
        """Returns the context of one layer: its inputs, cross-layer arrays, key, taps, losses and measurements.

        Args:
          number: the number of the layer.
          kind: the kind of the layer, which has its inputs.
          cross_layer: the arrays that earlier layers share.
          traced_layers: all layers for which this code is traced; () for a module that is no layer of the model, whose
            taps cannot be asked for.
          per_layer_BTP: the vectors of the tokens for this layer.
        """
        key = None if self.dropout_key is None else jax.random.fold_in(self.dropout_key, number)
        own: dict[str, Any] = {
            "kept_taps": {},
            "losses": {},
            "measurements": {},
            "dropout_key": key,
            "cross_layer": dict(cross_layer or {}),
            "layer": number,
            "traced_layers": traced_layers,
            "per_layer_BTP": per_layer_BTP,
        }
        return dataclasses.replace(self, **vars(self.layer_inputs[kind]), **own)
