"""The mechanisms of each layer, and the groups of layers that can be scanned.

A config names the mechanisms of its layers once; `Except` names the layers that differ. Layers that repeat a pattern
share stacked parameters and one traced body: 26 layers that repeat five local ones and a global one are four repeats of
a body of six layers, and one body of the two local layers that remain.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from model.encoder.additive import AdditiveAttention
from model.encoder.cross import CrossAttention
from model.feedforward.experts import Experts
from model.feedforward.mlp import MLP, Gated
from model.mixers import Mixer
from model.positions.absolute import LayerPosition
from model.residual.scheme import Sublayer

MAX_PATTERN_LENGTH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Except:
    """Layers that differ from the others, and their mechanisms.

    Attributes:
      layers: a Python index or slice: "3", ":3" (the first three), "3::4" (the fourth of every four), "-1" (the last).
      mixer, ffn, position: the mechanism of these layers; "same" for the mechanism of the other layers, None for no
        mixer or no feed-forward.
    """

    layers: str
    mixer: Mixer | Literal["same"] | None = "same"
    ffn: MLP | Gated | Experts | Literal["same"] | None = "same"
    position: LayerPosition | Literal["same"] = "same"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        try:
            self.layer_numbers(1)
        except ValueError:
            yield "layers", f"expected a number or a slice such as ':3' or '3::4', got {self.layers!r}"
        if not self.changes():
            yield "layers", "these layers differ in nothing; give them a mixer, an ffn or a position"

    def layer_numbers(self, num_layers: int) -> range:
        """Returns the numbers of the layers, from 0. Raises ValueError for text that is no index and no slice."""
        parts = [int(part) if part.strip() else None for part in self.layers.split(":")]
        if len(parts) > 3 or parts == [None]:
            raise ValueError(self.layers)
        if len(parts) == 1:
            (number,) = parts
            assert number is not None
            parts = [number, number + 1 or None]  # nothing comes after -1
        return range(num_layers)[slice(*parts)]

    def changes(self) -> dict[str, Any]:
        """Returns the mechanisms that these layers have instead, by field."""
        named = {name: getattr(self, name) for name in ("mixer", "ffn", "position")}
        return {name: option for name, option in named.items() if option != "same"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """The mechanisms of one layer, all resolved; None for no mixer, no feed-forward, or no source to attend to.

    `unnormed` says that the first sublayer reads the stream without a norm.
    """

    mixer: Mixer | None
    ffn: MLP | Gated | Experts | None
    position: LayerPosition
    cross: CrossAttention | AdditiveAttention | None = None
    unnormed: bool = False

    @property
    def sublayers(self) -> tuple[Sublayer, ...]:
        """The names of the sublayers that the layer has, in order."""
        all_three: tuple[Sublayer, ...] = ("mixer", "cross", "ffn")
        return tuple(name for name in all_three if getattr(self, name) is not None)


@dataclasses.dataclass(frozen=True)
class Group:
    """The layers from `start` on that repeat `pattern`, `repeats` times."""

    start: int
    pattern: tuple[Layer, ...]
    repeats: int

    @property
    def stack_names(self) -> list[str]:
        """The name of the stack at each index of the pattern: the number of its first layer."""
        return [str(self.start + index) for index in range(len(self.pattern))]

    def layer_numbers(self, index: int) -> range:
        """Returns the layers at one index of the pattern; their parameters are stacked."""
        return range(self.start + index, self.start + self.repeats * len(self.pattern), len(self.pattern))


def by_stack(blocks: Any, groups: Sequence[Group]) -> Any:
    """Returns every stack by its name, from the parameters' `blocks`, where a single stack has no name."""
    alone = len(groups) == 1 and len(groups[0].pattern) == 1
    return {"0": blocks} if alone else blocks


def from_stacks(stacks: dict[str, Any]) -> Any:
    """Returns `blocks` from every stack by its name: the inverse of `by_stack`."""
    return stacks["0"] if len(stacks) == 1 else stacks


@functools.lru_cache(maxsize=256)
def group_layers(layers: tuple[Layer, ...]) -> tuple[Group, ...]:
    """Splits layers into groups that trace the fewest bodies; ties go to fewer groups, then a longer first group."""
    count, kinds = len(layers), list(dict.fromkeys(layers))
    kind = [kinds.index(layer) for layer in layers]
    best: list[tuple[int, int]] = [(0, 0)] * (count + 1)  # bodies and groups of the layers from this one on
    first: list[tuple[int, int]] = [(0, 0)] * count  # size and repeats of the first group
    for start in reversed(range(count)):
        choices = [
            ((size + best[start + size * repeats][0], 1 + best[start + size * repeats][1]), (size, repeats))
            for size in range(1, min(MAX_PATTERN_LENGTH, count - start) + 1)
            for repeats in range(1, _count_repeats(kind, start, size) + 1)
        ]
        best[start], first[start] = min(choices, key=lambda choice: (choice[0], -math.prod(choice[1])))
    groups, start = [], 0
    while start < count:
        size, repeats = first[start]
        groups.append(Group(start, layers[start : start + size], repeats))
        start += size * repeats
    return tuple(groups)


def _count_repeats(kind: Sequence[int], start: int, size: int) -> int:
    """Returns how many times the pattern of `size` layers at `start` occurs in a row."""
    repeats = 1
    while kind[start + repeats * size : start + (repeats + 1) * size] == kind[start : start + size]:
        repeats += 1
    return repeats


def stacked_layers(layers: tuple[Layer, ...], name: str, count: int) -> Sequence[int]:
    """Returns the numbers of the `count` layers, or depths of multi-token prediction, that a parameter stacks.

    `name` is the dotted name of the parameter, such as `blocks.mixer.query`.
    """
    part, stack = name.split(".")[:2]
    if part != "blocks":
        return range(count)
    groups = group_layers(layers)
    known = {name: group.layer_numbers(index) for group in groups for index, name in enumerate(group.stack_names)}
    return known[stack] if len(known) > 1 else next(iter(known.values()))
