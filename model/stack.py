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
from model.context import Context, Handed
from model.interfaces import HandedOn
from model.layers import Group, Layer, by_stack, from_stacks, grouped
from model.mixers import MixerCache
from model.parameters.maker import ParameterMaker, specs_of, stack_modules
from model.parameters.precision import for_compute
from model.recompute import rematerialized
from model.taps.kept import Kept

# The cache of every layer that has one, by the number of the layer.
LayerCaches = dict[str, MixerCache]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unstacked:
    """Replaces an array with a leading layer axis by one array for each layer, for passes with a cache."""

    arrays: tuple[jax.Array, ...]

    def __getitem__(self, i: int) -> jax.Array:
        """Returns the array of layer i."""
        return self.arrays[i]


def unstacked(params: dict[str, Any]) -> dict[str, Any]:
    """Returns the parameters of a model, with those of its layers `Unstacked`."""
    cut = lambda array: Unstacked(tuple(array[i] for i in range(len(array))))  # noqa: E731
    return params | {"blocks": jax.tree.map(cut, params["blocks"])}


@dataclasses.dataclass(frozen=True)
class Collected:
    """The results of the layers besides their activations.

    Attributes:
      taps: by name, with a leading axis for the layers that have the tap.
      losses: the auxiliary losses, by name, summed over layers.
      measured: the measurements, by stack and then by name, with a leading layer axis.
      handed: the arrays that they handed on to later layers, by name.
    """

    taps: dict[str, jax.Array]
    losses: dict[str, jax.Array]
    measured: dict[str, dict[str, jax.Array]]
    handed: dict[str, Handed]


def new_blocks(config: ModelConfig, key: jax.Array, make: Callable[[jax.Array], ParameterMaker]) -> nnx.Module:
    """Returns the blocks of every stack, parameters with a leading layer axis; the i-th key draws layer i."""
    keys, counts = jax.random.split(key, config.num_layers), [len(layer.sublayers) for layer in config.layers]
    before = jnp.array([0, *itertools.accumulate(counts)])
    stacks = {}
    for group in grouped(config.layers):
        for index, (name, layer) in enumerate(zip(group.names, group.pattern, strict=True)):
            numbers = group.numbers(index)
            these = slice(numbers.start, numbers.stop, numbers.step)
            stacks[name] = _stacked(config, layer, make, keys[these], before[these])
    blocks = from_stacks(stacks)
    return nnx.Dict(blocks) if isinstance(blocks, dict) else blocks


def _stacked(
    config: ModelConfig,
    layer: Layer,
    make: Callable[[jax.Array], ParameterMaker],
    keys: jax.Array,
    before: jax.Array,
) -> nnx.Module:
    return stack_modules(lambda key, before: Block(config, layer, make(key), before), keys, before)


def empty_caches(config: ModelConfig, batch: int, length: int) -> LayerCaches:
    """Returns a cache of zeros for `batch` rows of at most `length` tokens, for every layer that has one."""
    compute = config.precision.compute
    return {
        str(number): layer.mixer.empty_cache(config.width, batch, length, compute)
        for number, layer in enumerate(config.layers)
        if layer.mixer is not None
    }


def run_layers(
    config: ModelConfig, blocks: nnx.Module, x_BTD: jax.Array, context: Context, caches: LayerCaches | None
) -> tuple[jax.Array, LayerCaches | None, Collected]:
    """Runs the layers in turn. Returns the residual stream (B, T, D), their caches, and their other results."""
    groups, carry = grouped(config.layers), (config.residual.enter(x_BTD), _to_hand_on(config, x_BTD, context))
    stacks = by_stack(blocks, groups)
    after: LayerCaches = {}
    kept = Kept(context.taps)
    losses: dict[str, jax.Array] = {}
    measured: dict[str, dict[str, jax.Array]] = {}
    for group in groups:
        names = group.names
        graphs = [nnx.split(stacks[name]) for name in names]
        params = [nnx.to_pure_dict(state) for _, state in graphs]
        numbers = group.start + np.arange(group.turns * len(names)).reshape(group.turns, len(names))
        scanned = caches is None and is_scanned(config, group.turns)
        turn = _turn(config, group, [(graph, specs_of(state)) for graph, state in graphs], context, scanned)
        if caches is None:
            run_all = functools.partial(repeat, turns=group.turns, scan=scanned)
        else:
            run_all = functools.partial(_with_caches, group=group, caches=caches)
        carry, (cached, given) = kept.run_group(run_all, group, turn, carry, (params, numbers), scanned)
        after |= {} if caches is None else cached
        for name, (_, some, found) in zip(names, given, strict=True):
            losses |= {loss: losses.get(loss, 0.0) + jnp.sum(each, axis=0) for loss, each in some.items()}
            measured |= {name: found} if found else {}
    stream, handed = carry
    collected = Collected(kept.stacked(), losses, measured, handed)
    return config.residual.leave(stream), None if caches is None else after, collected


def _to_hand_on(config: ModelConfig, x_BTD: jax.Array, context: Context) -> dict[str, Handed]:
    """Returns the arrays that layers hand on, before the first layer runs: zeros of the shapes that they declare."""
    declared: dict[str, HandedOn] = {}
    for layer in config.layers:
        declared |= {} if layer.mixer is None else layer.mixer.hands_on(config.width)
    return {
        name: Handed(
            context.shard(jnp.zeros((*x_BTD.shape[:2], *shape), x_BTD.dtype), ("batch", "sequence", *axes)),
            jnp.zeros((), bool),
        )
        for name, (shape, axes) in declared.items()
    }


def _turn(
    config: ModelConfig, group: Group, modules: Sequence[tuple[Any, Any]], context: Context, scanned: bool
) -> Callable[..., Any]:
    """Returns a function that runs every layer of a pattern once, from the graph and the specs of each."""

    def one(index: int) -> Callable[..., Any]:
        def run_layer(carry: Any, params: Any, cache: Any, number: jax.Array, numbers: tuple[int, ...]) -> Any:
            stream, handed = carry
            inner = context.for_layer(number, group.pattern[index], handed, numbers)
            graph, specs = modules[index]
            stream, cache = nnx.merge(graph, for_compute(params, specs, config.precision))(stream, inner, cache)
            return (stream, inner.handed), cache, (inner.kept, inner.losses, inner.measured)

        def for_numbers(*numbers: int) -> Callable[..., Any]:
            return rematerialized(functools.partial(run_layer, numbers=numbers), config.remat, scanned)

        if scanned:
            return for_numbers(*group.numbers(index))
        return lambda *inputs: for_numbers(int(inputs[-1]))(*inputs)

    layers = [one(index) for index in range(len(group.pattern))]

    def turn(carry: Any, inputs: Any, caches: Sequence[Any] | None = None) -> tuple[Any, Any]:
        params, numbers = inputs
        after, given = [], []
        for index, layer in enumerate(layers):
            cache = None if caches is None else caches[index]
            carry, cache, gave = layer(carry, params[index], cache, numbers[index])
            after.append(cache)
            given.append(gave)
        return carry, (after, given)

    return turn


def is_scanned(config: ModelConfig, turns: int) -> bool:
    """Returns whether a body that runs `turns` times is traced once for all of them."""
    return config.scan_layers and turns > 1


def repeat(turn: Callable[..., Any], carry: Any, inputs: Any, turns: int, scan: bool) -> Any:
    """Runs all turns of a pattern, scanned or written out; results are stacked along a leading axis."""
    if scan and turns > 1:
        return jax.lax.scan(turn, carry, inputs)
    results = []
    for i in range(turns):
        carry, result = turn(carry, jax.tree.map(lambda a, i=i: a[i], inputs))
        results.append(result)
    return carry, _stacked_up(results)


def _stacked_up(results: list[Any]) -> Any:
    """Returns the results of all turns, stacked along a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def _with_caches(
    turn: Callable[..., Any], carry: Any, inputs: Any, group: Group, caches: LayerCaches
) -> tuple[Any, tuple[LayerCaches, Any]]:
    """Runs all turns of a pattern written out, so that every layer's cache has its own arrays.

    The compiler extends these arrays in place. It copies an array with a leading layer axis: the whole array if a scan
    takes it as input and returns it as output, and layer by layer if the scan carries it.
    """
    after: LayerCaches = {}
    results = []
    for i in range(group.turns):
        own, numbers = jax.tree.map(lambda a, i=i: a[i], inputs, is_leaf=lambda x: isinstance(x, Unstacked))
        before = [caches.get(str(number)) for number in numbers]
        carry, (cached, given) = turn(carry, (own, numbers), before)
        after |= {str(number): cache for number, cache in zip(numbers, cached, strict=True) if cache is not None}
        results.append(given)
    return carry, (after, _stacked_up(results))
