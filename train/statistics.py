"""Statistics of layers and roles of parameters; at the requested steps a separate compiled training step computes them.

For the parameters of a role in a layer: the root mean square of their values, of their gradients (before clipping) and
of their updates (also of updates that the guard skips), and the ratio of update to parameter. For a layer: the root
mean square of the residual stream after it, over the counted tokens. For the model: the gradient noise scale.

Further ones are signs of instability that show at small scale already (Wortsman et al. 2023, "Small-scale proxies for
large-scale Transformer training instabilities"): growing attention scores, a drift of the log-normaliser of logits, and
units of a feed-forward layer that are silent in a whole batch.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.attention.grouped_query import GroupedQuery
from model.attention.latent import Latent
from model.config import ModelConfig
from model.feedforward.experts import Experts
from model.feedforward.mlp import MLP, Gated
from model.interfaces import AttentionOption
from model.layers import Layer, stacked_layers
from model.parameters.names import flatten
from model.parameters.specs import Spec
from train.objectives.tap_sums import LOG_Z
from train.optimizers import noise_scale

# The taps: the mean square of the residual stream at each token; sizes of attention scores and of hidden units.
STREAM, SCORES, UNITS = "stream_squares", "score_sizes", "unit_sizes"
# A unit is dead if its largest absolute value is below this share of the root mean square of the layer's units.
DEAD = 0.01
QUANTITIES = ("parameters", "gradients", "updates")
SumsOfSquares = dict[str, dict[str, jax.Array]]  # by quantity, and by dotted name or tap
Specs = Mapping[str, Spec]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
    """The statistics that are written to statistics.jsonl.

    Attributes:
      every: steps between statistics; the last step always has them.
      stream: whether to measure the residual stream too.
      attention: whether to measure the scores of attention before softmax: the largest, and the root mean square over
        the keys that queries see. It takes a second product of queries and keys.
      logits: whether to measure the mean log-normaliser of the logits, log Z. It computes the logits a second time.
      dead_units: whether to count the units of feed-forward layers, and of shared experts, that are silent for all
        counted tokens of a batch: no absolute value reaches 1% of the root mean square of all units of the layer.
      noise_scale: whether to measure the gradient noise scale (train/optimizers/noise_scale.py); without gradient
        accumulation these steps compute the gradient twice.
    """

    every: int = 100
    stream: bool = True
    attention: bool = False
    logits: bool = False
    dead_units: bool = False
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
        asked = {STREAM: self.stream, SCORES: self.attention, LOG_Z: self.logits, UNITS: self.dead_units}
        return tuple(name for name, is_asked in asked.items() if is_asked)

    def problems_with(self, model: ModelConfig) -> Iterator[tuple[str, str]]:
        """Yields the statistics that no layer of a model has, or that layers have of different numbers."""
        layers = [model.layers[number] for number in _layers_with(model, SCORES)]
        heads = {layer.mixer.num_heads for layer in layers if isinstance(layer.mixer, GroupedQuery | Latent)}
        if self.attention and len(heads) != 1:
            found = f"layers have {' and '.join(map(str, sorted(heads)))} heads" if heads else "no layer has attention"
            yield "attention", f"needs layers with one number of heads, and {found}; set it False"
        ffns = [_ffn(model.layers[number]) for number in _layers_with(model, UNITS)]
        widths = {ffn.width for ffn in ffns if ffn is not None}
        if self.dead_units and len(widths) != 1:
            found = f"layers have {' and '.join(map(str, sorted(widths)))} units" if widths else "no layer has any"
            yield "dead_units", f"needs feed-forwards, or shared experts, of one width, and {found}; set it False"


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
    return found | {"taps": {name: total / weight for name, total in taps.items()}}


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
      sums: the result of `sums_of_squares`, and `maxima` of taps, on the host.
    """
    totals: dict[Key, dict[str, float]] = {}
    for path, first in sums["parameters"].items():
        layers = stacked_layers(config.layers, path, len(first)) if first.ndim else [None]
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
    yield from _tap_rows(config, sums["taps"], sums["maxima"])
    if noise_scale.ROLE in sums:
        yield Key("model", None, noise_scale.ROLE)._asdict() | {k: float(x) for k, x in sums[noise_scale.ROLE].items()}


def _tap_rows(
    config: ModelConfig, means: Mapping[str, jax.Array], maxima: Mapping[str, jax.Array]
) -> Iterator[dict[str, Any]]:
    """Yields the lines of the taps: means over the counted tokens and maxima, with a first axis of layers."""
    for layer, square in _numbered(config, STREAM, means):
        yield Key("blocks", layer, "stream")._asdict() | {"stream": math.sqrt(float(square))}
    for (layer, squares), (_, largest) in zip(
        _numbered(config, SCORES, means), _numbered(config, SCORES, maxima), strict=True
    ):
        sizes = {"score_max": float(largest.max()), "score_rms": math.sqrt(float(squares.mean()))}
        yield Key("blocks", layer, "attention")._asdict() | sizes
    for (layer, squares), (_, largest) in zip(
        _numbered(config, UNITS, means), _numbered(config, UNITS, maxima), strict=True
    ):
        silent = largest < DEAD * math.sqrt(float(squares.mean()))
        yield Key("blocks", layer, "ffn")._asdict() | {"dead_units": float(silent.mean())}
    if LOG_Z in means:
        yield Key("logits", None, "logits")._asdict() | {"log_z": float(means[LOG_Z])}


def _numbered(config: ModelConfig, tap: str, values: Mapping[str, jax.Array]) -> Iterator[tuple[int, Any]]:
    """Yields the number of each layer that has a tap, and its value."""
    if tap in values:
        yield from zip(_layers_with(config, tap), values[tap], strict=True)


def _layers_with(config: ModelConfig, tap: str) -> list[int]:
    """The numbers of the layers that have a tap, in the order of the stacked taps."""
    has = {
        STREAM: lambda layer: True,
        SCORES: lambda layer: isinstance(layer.mixer, AttentionOption),
        UNITS: lambda layer: _ffn(layer) is not None,
    }[tap]
    return [number for number, layer in enumerate(config.layers) if has(layer)]


def _ffn(layer: Layer) -> MLP | Gated | None:
    """The feed-forward of a layer, or the shared expert; None if it has neither."""
    if isinstance(layer.ffn, Experts):
        return None if layer.ffn.shared is None else layer.ffn.shared.ffn
    return layer.ffn


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The numbers of one step over all layers and roles, for metrics.jsonl, from the lines of `statistics_rows`.

    The ratio of update to parameter is a geometric mean over the layers and roles that have one, the stream is that
    after the last layer, scores are the largest of all layers, and dead units a mean over layers.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        for name in ("ratio", "stream", "score_max", "score_rms", "log_z", "dead_units"):
            if row.get(name) is not None:
                values.setdefault(name, []).append(row[name])
    found = {name: some[-1] for name, some in values.items()}
    if ratios := [ratio for ratio in values.get("ratio", []) if ratio > 0]:
        found["ratio"] = math.exp(sum(map(math.log, ratios)) / len(ratios))
    for name in {"score_max", "score_rms"} & values.keys():
        found[name] = max(values[name])
    if "dead_units" in values:
        found["dead_units"] = sum(values["dead_units"]) / len(values["dead_units"])
    return found
