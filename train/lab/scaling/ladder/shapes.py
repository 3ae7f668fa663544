"""The shapes of a model at other sizes: width, layers and heads, from those of a base.

The rule. A shape keeps the base's aspect, width / layers, to a factor of 1.3: sizes differ in both. The width is a
multiple of 8, from 256 on of a sixteenth of it, rounded down to a power of two, up to 128. Feed-forward layers, experts
included, keep their width over that of the model, rounded to 8. Heads keep their width as far as it divides: of the
numbers of heads that leave whole, even heads, with as many query heads a key head as in the base, the one whose heads
are nearest to the base's in width, to a factor of 1.5 where there are several. A single head stays single, and so does
a single key head. For a requested number of parameters it is the shape whose exact count (model/cost.py) is nearest.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

from model.config import ModelConfig
from model.cost import ParameterCount, count_parameters
from model.errors import UserError
from model.feedforward.experts import Experts
from model.options.assignments import override
from model.options.tree import find_problems

ASPECT = 1.3  # the largest factor between the aspect of a shape and that of the base
_STEP, _LARGEST_STEP = 8, 128  # of widths
_HEADS = 1.5  # the largest factor between the width of heads and that of the base
_EXACT = 6  # shapes of about the right size that are counted exactly
_KEY_HEADS = ("num_kv_heads", "num_key_heads")


@dataclasses.dataclass(frozen=True)
class Shape:
    """A size of a model.

    Attributes:
      layers, width, heads: its shape; heads is None without any.
      settings: the changes of the base's config, as --set takes them.
      count: its parameters.
    """

    layers: int
    width: int
    heads: int | None
    settings: tuple[str, ...]
    count: ParameterCount

    @property
    def parameters(self) -> int:
        """N: all parameters that a token uses, embeddings too (Hoffmann et al. 2022, table A9)."""
        return self.count.active

    def describe(self) -> str:
        """The shape in words."""
        return f"{self.layers} x {self.width}" + (
            "" if self.heads is None else f", {self.heads} head" + "s" * (self.heads > 1)
        )


class Shapes:
    """The shapes of a base model; counts are remembered."""

    def __init__(self, base: ModelConfig) -> None:
        """Raises UserError for a model whose parts the rule does not know how to resize."""
        self._base, self._known = base, dict[tuple[int, int], Shape | None]()
        _refuse_unknown(base)

    def nearest(self, parameters: float) -> Shape:
        """The shape with the number of parameters that is nearest in ratio. Raises UserError if none is within 2."""
        rough = sorted(self._candidates(parameters), key=lambda pair: abs(math.log(self._estimate(*pair) / parameters)))
        shapes = [shape for pair in rough[:_EXACT] if (shape := self.shape(*pair)) is not None]
        if not shapes:
            raise UserError(f"no shape of about {parameters:,.0f} parameters passes the checks of the model's options")
        best = min(shapes, key=lambda shape: abs(math.log(shape.parameters / parameters)))
        if abs(math.log(best.parameters / parameters)) > math.log(2):
            raise UserError(
                f"no shape has about {parameters:,.0f} parameters; the nearest, {best.describe()}, has "
                f"{best.parameters:,}: ask for other sizes, or take another base"
            )
        return best

    def shape(self, layers: int, width: int) -> Shape | None:
        """The shape of a number of layers and a width; None where heads do not divide it, or a check fails."""
        if (layers, width) not in self._known:
            self._known[layers, width] = self._resized(layers, width)
        return self._known[layers, width]

    def _resized(self, layers: int, width: int) -> Shape | None:
        changes = dict(self._changes(layers, width))
        heads = changes.get("model.mixer.num_heads")
        if heads == 0:
            return None
        settings = tuple(f"{path}={value}" for path, value in changes.items())
        model = self._base
        for setting in settings:
            model = override(model, setting.removeprefix("model."))
        if find_problems(model):
            return None
        return Shape(layers, width, heads, settings, count_parameters(model))

    def _candidates(self, parameters: float) -> Iterator[tuple[int, int]]:
        """Layers and widths with about the aspect of the base and up to about the number of parameters."""
        aspect = self._base.width / self._base.num_layers
        for layers in range(1, 10 * self._base.num_layers + 200):
            low, high = aspect * layers / ASPECT, aspect * layers * ASPECT
            widths = [width for width in range(_STEP, math.floor(high) + 1, _STEP) if width >= low and _is_round(width)]
            if widths and self._estimate(layers, widths[0]) > 4 * parameters:
                return
            yield from ((layers, width) for width in widths)

    def _estimate(self, layers: int, width: int) -> float:
        """The parameters, if those of blocks grow as width squared and all others as width."""
        count, base = self._base_count, self._base
        scale = width / base.width
        blocks = count.blocks - count.inactive
        return (count.active - blocks) * scale + blocks * scale**2 * layers / base.num_layers

    @functools.cached_property
    def _base_count(self) -> ParameterCount:
        return count_parameters(self._base)

    def _changes(self, layers: int, width: int) -> Iterator[tuple[str, int]]:
        base = self._base
        yield "model.num_layers", layers
        yield "model.width", width
        mixer: Any = base.mixer
        if mixer is not None and mixer.num_heads > 1:
            heads = _num_heads(mixer, base.width, width)
            yield "model.mixer.num_heads", heads
            for name in _KEY_HEADS:
                if (keys := getattr(mixer, name, None)) is not None:
                    yield f"model.mixer.{name}", 1 if keys == 1 else heads * keys // mixer.num_heads
        for path, ffn in _feed_forwards(base):
            yield f"model.{path}.width", max(_STEP, _STEP * round(ffn.width * width / base.width / _STEP))


def _num_heads(mixer: Any, base_width: int, width: int) -> int:
    """The number of heads at a width; 0 where none fits."""
    keys = next((getattr(mixer, name) for name in _KEY_HEADS if getattr(mixer, name, None)), mixer.num_heads)
    group = 1 if keys == 1 else mixer.num_heads // keys
    if mixer.head_dim is not None:  # heads of a given width need not divide the model's
        return max(group, group * round(mixer.num_heads * width / base_width / group))
    wanted = base_width / mixer.num_heads
    fits = [n for n in range(group, width + 1, group) if width % n == 0 and width // n % 2 == 0 and width // n >= 4]
    fits = [n for n in fits if n == 1 or abs(math.log(width / n / wanted)) <= math.log(_HEADS)]
    return min(fits, key=lambda n: abs(math.log(width / n / wanted)), default=0)


def _is_round(width: int) -> bool:
    step = _STEP
    while 2 * step <= min(width / 16, _LARGEST_STEP):
        step *= 2
    return width % step == 0


def _feed_forwards(base: ModelConfig) -> Iterator[tuple[str, Any]]:
    if isinstance(base.ffn, Experts):
        yield "ffn.expert", base.ffn.expert
        if base.ffn.shared is not None:
            yield "ffn.shared.ffn", base.ffn.shared.ffn
    elif base.ffn is not None:
        yield "ffn", base.ffn


def _refuse_unknown(base: ModelConfig) -> None:
    mixer = base.mixer
    if mixer is not None and not hasattr(mixer, "num_heads"):
        raise UserError(f"model.mixer: the widths of {type(mixer).__name__} have no rule for other sizes")
    if hasattr(mixer, "kv_rank"):
        raise UserError("model.mixer: the ranks of Latent have no rule for other sizes; set GroupedQuery")
    for i, exception in enumerate(base.exceptions):
        for name in ("mixer", "ffn"):
            if dataclasses.is_dataclass(getattr(exception, name)):
                raise UserError(
                    f"model.exceptions.{i}.{name}: layers of their own shape have no rule for other sizes; take a base "
                    "without"
                )
    if base.embedding_width is not None or base.per_layer_embedding is not None:
        raise UserError(
            "model.embedding_width and model.per_layer_embedding have no rule for other sizes; set them to None"
        )
