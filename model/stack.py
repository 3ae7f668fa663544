"""The stack of layers of a model: stacked parameters, and one traced body for each pattern of layers.

A stack is named after its first layer: `blocks.0`, `blocks.5`; if all layers are alike, there is one stack, `blocks`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.block import Block
from model.config import ModelConfig
from model.context import Context, CrossLayerArray, array_of_layer
from model.encoder.cache import DecoderLayerCache
from model.interfaces import CrossLayerShape
from model.layers import Group, Layer, by_stack, from_stacks, group_layers
from model.mixers import MixerCache
from model.parameters.maker import ParameterMaker, specs_of, stack_modules
from model.parameters.precision import STACKED, for_compute
from model.recompute import rematerialized
from model.taps.collect import TapCollector

# The cache of every layer that has one, by the number of the layer; with an encoder, a `DecoderLayerCache`.
LayerCaches = dict[str, MixerCache]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unstacked:
    """Replaces an array with a leading layer axis by one array for each layer, for passes with a cache."""

    arrays: tuple[jax.Array, ...]

    def __getitem__(self, i: int) -> jax.Array:
        """Returns the array of layer i."""
        return self.arrays[i]


def unstack_layers(params: dict[str, Any]) -> dict[str, Any]:
    """Returns the parameters of a model, with those of its layers, and of modules after them, `Unstacked`."""
    cut = lambda array: Unstacked(tuple(array[i] for i in range(len(array))))  # noqa: E731
    return params | {name: jax.tree.map(cut, params[name]) for name in STACKED if name in params}


@dataclasses.dataclass(frozen=True)
class AuxOutputs:
    """The outputs of the layers besides their activations.

    Attributes:
      taps: by name, with a leading axis for the layers that have the tap.
      losses: the auxiliary losses, by name, summed over layers.
      measurements: the measurements, by stack and then by name, with a leading layer axis.
      cross_layer: the arrays that they share with later layers, by name.
    """

    taps: dict[str, jax.Array]
    losses: dict[str, jax.Array]
    measurements: dict[str, dict[str, jax.Array]]
    cross_layer: dict[str, CrossLayerArray]


def new_blocks(config: ModelConfig, key: jax.Array, make: Callable[[jax.Array], ParameterMaker]) -> nnx.Module:
    """Returns the blocks of every stack, parameters with a leading layer axis; the i-th key draws layer i."""
    keys, counts = jax.random.split(key, config.num_layers), [len(layer.sublayers) for layer in config.layers]
    sublayers_before = jnp.array([0, *itertools.accumulate(counts)])
    stacks = {}
    for group in group_layers(config.layers):
        for index, (name, layer) in enumerate(zip(group.stack_names, group.pattern, strict=True)):
            numbers = group.layer_numbers(index)
            these = slice(numbers.start, numbers.stop, numbers.step)
            stacks[name] = _stack_blocks(config, layer, make, keys[these], sublayers_before[these])
    blocks = from_stacks(stacks)
    return nnx.Dict(blocks) if isinstance(blocks, dict) else blocks


def _stack_blocks(
    config: ModelConfig,
    layer: Layer,
    make: Callable[[jax.Array], ParameterMaker],
    keys: jax.Array,
    sublayers_before: jax.Array,
) -> nnx.Module:
    return stack_modules(lambda key, before: Block(config, layer, make(key), before), keys, sublayers_before)


def empty_caches(config: ModelConfig, batch: int, length: int, source_length: int | None = None) -> LayerCaches:
    """Returns a cache of zeros for `batch` rows of at most `length` tokens, for every layer that has one.

    Layers that attend to a source have room for `source_length` of its tokens; None for as many as the encoder reads.
    """
    compute, mixers = config.precision.compute, {str(i): layer.mixer for i, layer in enumerate(config.layers)}
    caches = {
        number: mixer.empty_cache(config.width, batch, length, compute)
        for number, mixer in mixers.items()
        if mixer is not None and mixer.taken_arrays(config.width) is None
    }
    if (encoder := config.encoder) is None:
        return caches
    slots = encoder.context_length if source_length is None else source_length
    empty = lambda: encoder.cross.empty_cache(config.width, batch, slots, compute)  # noqa: E731
    both: dict[str, Any] = {number: DecoderLayerCache(caches.get(number), empty()) for number in mixers}
    return both


def run_layers(
    config: ModelConfig,
    blocks: nnx.Module,
    x_BTD: jax.Array,
    context: Context,
    caches: LayerCaches | None,
    per_layer_LBTP: jax.Array | None = None,
) -> tuple[jax.Array, LayerCaches | None, AuxOutputs]:
    """Runs all layers. Returns the residual stream (B, T, D), their caches, and their other outputs.

    `per_layer_LBTP` are the vectors of the tokens for every layer, in a model that has them.
    """
    groups, carry = (
        group_layers(config.layers),
        (config.residual.enter(x_BTD), empty_cross_layer_arrays(config, x_BTD, context)),
    )
    stacks = by_stack(blocks, groups)
    after: LayerCaches = {}
    collector = TapCollector(context.taps)
    losses: dict[str, jax.Array] = {}
    measurements: dict[str, dict[str, jax.Array]] = {}
    for group in groups:
        names = group.stack_names
        graphs = [nnx.split(stacks[name]) for name in names]
        params = [nnx.to_pure_dict(state) for _, state in graphs]
        numbers = group.start + np.arange(group.repeats * len(names)).reshape(group.repeats, len(names))
        vectors = None if per_layer_LBTP is None else _of_group(per_layer_LBTP, numbers)
        scanned = caches is None and is_scanned(config, group.repeats)
        body = pattern_body(config, group, [(graph, specs_of(state)) for graph, state in graphs], context, scanned)
        if caches is None:
            run_all = functools.partial(scan_or_unroll, repeats=group.repeats, scan=scanned)
        else:
            run_all = functools.partial(_unroll_with_caches, group=group, caches=caches)
        carry, (cached, outputs) = collector.run_group(run_all, group, body, carry, (params, vectors, numbers), scanned)
        after |= {} if caches is None else cached
        for name, (_, layer_losses, layer_measurements) in zip(names, outputs, strict=True):
            losses |= {loss: losses.get(loss, 0.0) + jnp.sum(each, axis=0) for loss, each in layer_losses.items()}
            measurements |= {name: layer_measurements} if layer_measurements else {}
    stream, cross_layer = carry
    aux = AuxOutputs(collector.stacked(), losses, measurements, cross_layer)
    return config.residual.leave(stream), None if caches is None else after, aux


def _of_group(array_LBTP: jax.Array, numbers: np.ndarray) -> jax.Array:
    """Returns the arrays of consecutive layers, with the axes of their numbers (repeats, pattern) in place of L."""
    first, last = numbers[0, 0], numbers[-1, -1]
    return array_LBTP[first : last + 1].reshape(*numbers.shape, *array_LBTP.shape[1:])


def empty_cross_layer_arrays(config: ModelConfig, x_BTD: jax.Array, context: Context) -> dict[str, CrossLayerArray]:
    """Returns the arrays that layers share, before the first layer runs: zeros of the shapes that they declare."""
    declared: dict[str, CrossLayerShape] = {}
    for layer in config.layers:
        if layer.mixer is not None:
            declared |= layer.mixer.cross_layer_arrays(config.width)
            number, taken = layer.mixer.taken_arrays(config.width) or (0, {})
            declared |= {array_of_layer(name, number): shape for name, shape in taken.items()}
    return {
        name: CrossLayerArray(
            context.shard(jnp.zeros((*x_BTD.shape[:2], *shape), x_BTD.dtype), ("batch", "sequence", *axes)),
            jnp.zeros((), bool),
        )
        for name, (shape, axes) in declared.items()
    }


def pattern_body(
    config: ModelConfig, group: Group, modules: Sequence[tuple[Any, Any]], context: Context, scanned: bool
) -> Callable[..., Any]:
    """Returns a function that runs every layer of a pattern once, from the graph and the specs of each."""

    def layer_function(index: int) -> Callable[..., Any]:
        def run_layer(
            carry: Any, params: Any, cache: Any, vectors_BTP: Any, number: jax.Array, numbers: tuple[int, ...]
        ) -> Any:
            stream, cross_layer = carry
            inner = context.for_layer(number, group.pattern[index], cross_layer, numbers, vectors_BTP)
            graph, specs = modules[index]
            stream, cache = nnx.merge(graph, for_compute(params, specs, config.precision))(stream, inner, cache)
            return (stream, inner.cross_layer), cache, (inner.kept_taps, inner.losses, inner.measurements)

        def for_numbers(*numbers: int) -> Callable[..., Any]:
            return rematerialized(functools.partial(run_layer, numbers=numbers), config.remat, scanned)

        if scanned:
            return for_numbers(*group.layer_numbers(index))
        return lambda *inputs: for_numbers(int(inputs[-1]))(*inputs)

    layers = [layer_function(index) for index in range(len(group.pattern))]

    def body(carry: Any, inputs: Any, caches: Sequence[Any] | None = None) -> tuple[Any, Any]:
        params, vectors, numbers = inputs
        after, outputs = [], []
        for index, layer in enumerate(layers):
            cache = None if caches is None else caches[index]
            own = None if vectors is None else vectors[index]
            carry, cache, output = layer(carry, params[index], cache, own, numbers[index])
            after.append(cache)
            outputs.append(output)
        return carry, (after, outputs)

    return body


def is_scanned(config: ModelConfig, repeats: int) -> bool:
    """Returns whether a body that runs `repeats` times is traced once for all of them."""
    return config.scan_layers and repeats > 1


def scan_or_unroll(body: Callable[..., Any], carry: Any, inputs: Any, repeats: int, scan: bool) -> Any:
    """Runs all repeats of a pattern, scanned or unrolled; results are stacked along a leading axis."""
    if scan and repeats > 1:
        return jax.lax.scan(body, carry, inputs)
    results = []
    for i in range(repeats):
        carry, result = body(carry, jax.tree.map(lambda a, i=i: a[i], inputs))
        results.append(result)
    return carry, _stack_results(results)


def _stack_results(results: list[Any]) -> Any:
    """Returns the results of all repeats, stacked along a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def _unroll_with_caches(
    body: Callable[..., Any], carry: Any, inputs: Any, group: Group, caches: LayerCaches
) -> tuple[Any, tuple[LayerCaches, Any]]:
    """Runs all repeats of a pattern unrolled, so that every layer's cache has its own arrays.

    The compiler extends these arrays in place. It copies an array with a leading layer axis: the whole array if a scan
    takes it as input and returns it as output, and layer by layer if the scan carries it.
    """
    after: LayerCaches = {}
    results = []
    for i in range(group.repeats):
        here = jax.tree.map(lambda a, i=i: a[i], inputs, is_leaf=lambda x: isinstance(x, Unstacked))
        numbers = here[-1]
        caches_before = [caches.get(str(number)) for number in numbers]
        carry, (cached, outputs) = body(carry, here, caches_before)
        after |= {str(number): cache for number, cache in zip(numbers, cached, strict=True) if cache is not None}
        results.append(outputs)
    return carry, (after, _stack_results(results))
