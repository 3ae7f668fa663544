"""The model that is looked into: functions of its parameters and tokens run on its mesh, results come to the host."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.config import ModelConfig
from model.encoder.source import Source
from model.errors import UserError
from model.layout import ONE_DEVICE, Layout
from model.options.words import nearest
from model.output import Output
from model.taps.meanings import TAPS
from model.taps.request import Tap, Taps
from model.transformer import abstract_params, stream
from train.inspection.table import INSTRUMENTS
from train.parallel.table import MeshLayout, replicated
from train.run.loading import LoadedRun

EMPTY = "--{} is empty; give numbers of layers, such as 0,-1"


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model and its parameters.

    Attributes:
      config: the options.
      params: the parameters, on the devices of the layout.
      layout: the sharding of activations.
      source_S: the source that the layers of a model with an encoder read beside every text, int32; or None.
    """

    config: ModelConfig
    params: Any
    layout: Layout = ONE_DEVICE
    source_S: np.ndarray | None = None

    @classmethod
    def of(cls, run: LoadedRun, *, reads_text: bool = True, source_S: np.ndarray | None = None) -> "Subject":
        """The model of a run. Raises UserError as `refuse_unreadable` does."""
        needs_source = reads_text and source_S is None
        refuse_unreadable(run.experiment.model, run.layout, str(run.folder), needs_source=needs_source)
        return cls(run.experiment.model, run.params, run.layout, source_S)

    def stream(self, params: Any, tokens_BT: jax.Array, taps: Taps | Iterable[str | Tap] = ()) -> Output:
        """The model on texts, each beside the source if there is one, as `model.transformer.stream`; to be traced."""
        source = None
        if self.source_S is not None:
            shape = (tokens_BT.shape[0], len(self.source_S))
            source = Source(tokens_BS=jnp.broadcast_to(jnp.asarray(self.source_S), shape))
        return stream(self.config, params, tokens_BT, layout=self.layout, taps=taps, source=source)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A pure function of (parameters, arrays...) as one of arrays on the host, with its results on the host."""
        return functools.partial(self.compiled_for(function), self.params)

    def compiled_for(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same as a function of the parameters too, which stay where they are."""
        placement = replicated(self.layout.mesh) if isinstance(self.layout, MeshLayout) else None
        jitted = jax.jit(function) if placement is None else jax.jit(function, out_shardings=placement)

        def call(params: Any, *arrays: Any) -> Any:
            return jax.device_get(jitted(params, *jax.device_put(arrays, placement)))

        return call

    def taps(self, tokens_BT: np.ndarray, *keep: Tap) -> dict[str, np.ndarray]:
        """Taps of tokens, float32 on the host, as `model.transformer.stream` returns them."""

        def kept(params: Any, tokens_BT: jax.Array) -> dict[str, jax.Array]:
            return {name: as_float32(x) for name, x in self.stream(params, tokens_BT, keep).taps.items()}

        found: dict[str, np.ndarray] = self.compiled(kept)(tokens_BT)
        return found


def refuse_unreadable(config: ModelConfig, layout: Layout, name: str, *, needs_source: bool = True) -> None:
    """Raises UserError for a model that cannot be looked into.

    That is one whose layers run as stages of a pipeline, and one whose layers read a source, where it is given none.

    Args:
      config, layout: the model, and the sharding of its activations.
      name: the run, for the message.
      needs_source: whether the model is given a text and no source.
    """
    if needs_source and config.encoder is not None:
        takers = [instrument for instrument, row in INSTRUMENTS.items() if "source" in row.flags]
        raise UserError(
            f"the model of {name} has an encoder, and this gives it no source to read; launch.inspect gives one with "
            f"--source to {', '.join(takers)}; tokens, neighbours, analogies and map need none"
        )
    if layout.pipeline is not None:
        devices = layout.mesh.size if isinstance(layout, MeshLayout) else 1
        raise UserError(
            f"the mesh of {name} runs its layers as stages of a pipeline, which offer no taps; give one without them: "
            f"--mesh=fsdp={devices}"
        )


def as_float32(x: jax.Array) -> jax.Array:
    """An array of floating-point numbers in float32; other arrays as they are."""
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x


@functools.lru_cache(maxsize=256)
def layers_with(config: ModelConfig, name: str) -> dict[int, tuple[int, ...]]:
    """The layers that have a tap, each with the shape of the tap for one token; traces a layer of each kind.

    Raises UserError for a tap that no model has, with the nearest name, and for one outside of the layers.
    """
    if name not in TAPS:
        raise UserError(f"no tap is called {name[:80]!r}; {nearest(name, TAPS)}")
    shapes: dict[Any, tuple[int, ...] | None] = {}
    for number, layer in enumerate(config.layers):
        if layer not in shapes:
            shapes[layer] = _shape_in(config, Tap(name, layers=(number,)))
    found = {number: shapes[layer] for number, layer in enumerate(config.layers)}
    return {number: shape for number, shape in found.items() if shape is not None}


def _shape_in(config: ModelConfig, tap: Tap) -> tuple[int, ...] | None:
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)

    def kept(params: Any, tokens: jax.Array) -> dict[str, jax.Array]:
        source = None if config.encoder is None else Source(tokens_BS=tokens)
        return stream(config, params, tokens, taps=(tap,), source=source).taps

    try:
        output = jax.eval_shape(kept, abstract_params(config), tokens)
    except UserError:
        return None
    return tuple(output[tap.name].shape[1:])


def chosen_layers(config: ModelConfig, name: str, layers: Sequence[int] | None, flag: str = "layers") -> list[int]:
    """The layers to look at, counted from 0: those given, by `flag`, or all that have a tap.

    Raises UserError where none has it, for a layer that is not there or does not have it, and for an empty list.
    """
    known = layers_with(config, name)
    if not known:
        mixers = sorted({type(layer.mixer).__name__ for layer in config.layers if layer.mixer is not None})
        raise UserError(f"no layer of this model has the tap {name!r}; its mixers are {', '.join(mixers) or 'none'}")
    if layers is None:
        return list(known)
    if not layers:
        raise UserError(EMPTY.format(flag))
    chosen = []
    for number in layers:
        if not -config.num_layers <= number < config.num_layers:
            last = config.num_layers - 1
            raise UserError(f"--{flag}: the model has no layer {number}; its layers are 0 to {last}, -1 is the last")
        if number % config.num_layers not in known:
            having = ", ".join(map(str, known))
            raise UserError(f"--{flag}: layer {number} has no tap {name!r}; layers that have it: {having}")
        chosen.append(number % config.num_layers)
    if len(set(chosen)) < len(chosen):
        raise UserError(f"--{flag}={','.join(map(str, layers))} names a layer twice")
    return chosen


def by_layer(subject: Subject, tokens_BT: np.ndarray, name: str, layers: Sequence[int]) -> dict[int, np.ndarray]:
    """A tap of some layers, by layer: layers whose taps have one shape are read in one pass."""
    known = layers_with(subject.config, name)
    found: dict[int, np.ndarray] = {}
    for shape in dict.fromkeys(known[number] for number in layers):
        alike = tuple(number for number in layers if known[number] == shape)
        found |= dict(zip(alike, subject.taps(tokens_BT, Tap(name, layers=alike))[name], strict=True))
    return {number: found[number] for number in layers}
