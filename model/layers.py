"""What each layer is made of, and how layers are grouped so that they can be scanned.

A model names the mechanisms of its layers once; `Except` names those that differ. Layers that repeat the same pattern
share their stacked parameters and one traced body: 26 layers of five local ones and a global one, over and over, are
four turns of a body of six layers and one of the two local ones that remain.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from model.feedforward.experts import Experts
from model.feedforward.mlp import MLP, Gated
from model.mixers import Mixer
from model.positions.absolute import LayerPosition
from model.residual.scheme import Sublayer

LONGEST_PATTERN = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Except:
    """Layers that differ from the others, and what they have instead.

    Attributes:
      layers: which, as Python slices a sequence of layers: "3", ":3" (the first three), "3::4" (the fourth of every
        four), "-1" (the last).
      mixer, ffn, position: the mechanism of these layers; "same" for that of the others, and None for a layer that
        has no mixer or no feed-forward.
    """

    layers: str
    mixer: Mixer | Literal["same"] | None = "same"
    ffn: MLP | Gated | Experts | Literal["same"] | None = "same"
    position: LayerPosition | Literal["same"] = "same"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        try:
            self.chosen(1)
        except ValueError:
            yield "layers", f"expected a number or a slice such as ':3' or '3::4', got {self.layers!r}"
        if not self.changes():
            yield "layers", "these layers differ in nothing; give them a mixer, an ffn or a position"

    def chosen(self, num_layers: int) -> range:
        """The numbers of the layers, from 0. Raises ValueError for text that is no slice."""
        parts = [int(part) if part.strip() else None for part in self.layers.split(":")]
        if len(parts) > 3 or parts == [None]:
            raise ValueError(self.layers)
        if len(parts) == 1:
            (number,) = parts
            assert number is not None
            parts = [number, number + 1 or None]  # nothing comes after -1
        return range(num_layers)[slice(*parts)]

    def changes(self) -> dict[str, Any]:
        """The mechanisms that these layers have instead, by field."""
        named = {name: getattr(self, name) for name in ("mixer", "ffn", "position")}
        return {name: option for name, option in named.items() if option != "same"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """The mechanisms of one layer, none left open; without a mixer or without a feed-forward it has a None."""

    mixer: Mixer | None
    ffn: MLP | Gated | Experts | None
    position: LayerPosition

    @property
    def sublayers(self) -> tuple[Sublayer, ...]:
        """The names of those that it has, in order."""
        both: tuple[Sublayer, ...] = ("mixer", "ffn")
        return tuple(name for name in both if getattr(self, name) is not None)


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers `start` and after: `pattern`, `turns` times over."""

    start: int
    pattern: tuple[Layer, ...]
    turns: int

    @property
    def names(self) -> list[str]:
        """The stack at each index of the pattern, named after its first layer."""
        return [str(self.start + index) for index in range(len(self.pattern))]

    def numbers(self, index: int) -> range:
        """The layers that stand at one index of the pattern; their parameters are stacked."""
        return range(self.start + index, self.start + self.turns * len(self.pattern), len(self.pattern))


def by_stack(blocks: Any, groups: Sequence[Group]) -> Any:
    """What holds every stack by its name, from the parameters' `blocks`, where a stack that is alone has no name."""
    alone = len(groups) == 1 and len(groups[0].pattern) == 1
    return {"0": blocks} if alone else blocks


def from_stacks(stacks: dict[str, Any]) -> Any:
    """The inverse of `by_stack`."""
    return stacks["0"] if len(stacks) == 1 else stacks


@functools.lru_cache(maxsize=256)
def grouped(layers: tuple[Layer, ...]) -> tuple[Group, ...]:
    """The layers in as few traced bodies as there can be, then as few groups, then the longest first."""
    count, kinds = len(layers), list(dict.fromkeys(layers))
    kind = [kinds.index(layer) for layer in layers]
    best: list[tuple[int, int]] = [(0, 0)] * (count + 1)  # bodies and groups of the layers from here on
    first: list[tuple[int, int]] = [(0, 0)] * count  # size and turns of the first of these groups
    for start in reversed(range(count)):
        choices = [
            ((size + best[start + size * turns][0], 1 + best[start + size * turns][1]), (size, turns))
            for size in range(1, min(LONGEST_PATTERN, count - start) + 1)
            for turns in range(1, _most_turns(kind, start, size) + 1)
        ]
        best[start], first[start] = min(choices, key=lambda choice: (choice[0], -math.prod(choice[1])))
    groups, start = [], 0
    while start < count:
        size, turns = first[start]
        groups.append(Group(start, layers[start : start + size], turns))
        start += size * turns
    return tuple(groups)


def _most_turns(kind: Sequence[int], start: int, size: int) -> int:
    """How often the pattern of `size` layers from `start` on comes in a row."""
    turns = 1
    while kind[start + turns * size : start + (turns + 1) * size] == kind[start : start + size]:
        turns += 1
    return turns
