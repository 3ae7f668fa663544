"""Statistics of layers and roles of parameters; at the requested steps a separate compiled training step computes them.

For the parameters of a role in a layer: the root mean square of their values, of their gradients (before clipping) and
of their updates (also of updates that the guard skips), and the ratio of update to parameter. For a layer: the root
mean square of the residual stream after it, over the counted tokens. For the model: the gradient noise scale.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.layers import group_layers
from model.parameters.names import flatten
from model.parameters.specs import Spec
from train.optimizers import noise_scale

STREAM = "stream_squares"  # the tap: the mean square of the residual stream at each token
QUANTITIES = ("parameters", "gradients", "updates")
SumsOfSquares = dict[str, dict[str, jax.Array]]
Specs = Mapping[str, Spec]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
    """The statistics that are written to statistics.jsonl.

    Attributes:
      every: steps between statistics; the last step always has them.
      stream: whether to measure the residual stream too.
      noise_scale: whether to measure the gradient noise scale (train/optimizers/noise_scale.py); without gradient
        accumulation these steps compute the gradient twice.
    """

    every: int = 100
    stream: bool = True
    noise_scale: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.every < 1:
            yield "every", f"must be at least 1, got {self.every}"

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether update number `step` has statistics."""
        return step % self.every == 0 or step == num_steps

    @property
    def taps(self) -> tuple[str, ...]:
        """The taps of the model that the statistics need."""
        return (STREAM,) if self.stream else ()


class Key(NamedTuple):
    """A part of the model, the layer if the part has layers, and a role of its parameters."""

    part: str
    layer: int | None
    role: str


def sums_of_squares(
    specs: Specs,
    trees: Mapping[str, Any],
    taps: Mapping[str, jax.Array],
    weight: jax.Array,
) -> SumsOfSquares:
    """The sums of squares from which the statistics are computed, by quantity and dotted name.

    Args:
      specs: the specs of the model's parameters, by dotted name.
      trees: for each of `QUANTITIES` a tree like the trained parameters.
      taps: the taps that the objective returned, sums over tokens.
      weight: the divisor of sums over tokens.
    """
    found = {
        name: {path: _squares(x, specs[path].axes) for path, x in flatten(tree).items()} for name, tree in trees.items()
    }
    return found | {"stream": {name: total / weight for name, total in taps.items()}}


def _squares(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """The sum of squares; one per layer if the first axis counts layers."""
    over = tuple(range(axes[:1] == ("layer",), x.ndim))
    return jnp.sum(jnp.square(x.astype(jnp.float32)), axis=over)


def statistics_rows(
    config: ModelConfig, specs: Specs, sizes: Mapping[str, int], sums: SumsOfSquares
) -> Iterator[dict[str, Any]]:
    """Yields the lines of one step, by part and layer.

    Args:
      config: the model's options.
      specs: the specs of its parameters, by dotted name.
      sizes: the number of elements of each parameter, by dotted name.
      sums: the result of `sums_of_squares`, on the host.
    """
    totals: dict[Key, dict[str, float]] = {}
    for path, first in sums["parameters"].items():
        layers = _layer_numbers(config, path, len(first)) if first.ndim else [None]
        for i, layer in enumerate(layers):
            key = Key(path.partition(".")[0], layer, specs[path].role)
            total = totals.setdefault(key, dict.fromkeys(("count", *QUANTITIES), 0.0))
            total["count"] += sizes[path] / len(layers)
            for name in QUANTITIES:
                total[name] += float(sums[name][path][i] if layer is not None else sums[name][path])
    for key in sorted(totals, key=lambda key: (key.part, -1 if key.layer is None else key.layer)):
        total = totals[key]
        rms = {name: math.sqrt(total[name] / total["count"]) for name in QUANTITIES}
        yield key._asdict() | rms | {"ratio": rms["updates"] / rms["parameters"] if rms["parameters"] else None}
    for squares in sums["stream"].values():
        for layer, square in zip(range(config.num_layers), squares, strict=True):  # every layer has one
            yield Key("blocks", layer, "stream")._asdict() | {"stream": math.sqrt(float(square))}
    if noise_scale.ROLE in sums:
        yield Key("model", None, noise_scale.ROLE)._asdict() | {k: float(x) for k, x in sums[noise_scale.ROLE].items()}


def _layer_numbers(config: ModelConfig, path: str, count: int) -> Sequence[int | None]:
    """The numbers of the layers that are stacked in a parameter."""
    part, stack = path.split(".")[:2]
    if part != "blocks":
        return range(count)
    groups = group_layers(config.layers)
    known = {name: group.layer_numbers(index) for group in groups for index, name in enumerate(group.stack_names)}
    return known[stack] if len(known) > 1 else next(iter(known.values()))
