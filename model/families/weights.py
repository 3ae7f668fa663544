"""Tables of weights: which published tensor holds which parameter, and how its axes are arranged.

A row names a parameter of Cairn, a tensor, and the arrangement that makes the one of the other, read from tensor to
parameter. Letters are axes; parentheses put several axes into one, the first of them varying slowest. The letter k
stands for key heads, and 1 for an axis of that size:

    Weight("blocks.attention.query", "model.layers.{layer}.self_attn.q_proj.weight", "(n h) d -> d n h")

Rows that name the same tensor are its parts, in order. `+` stands before the axis, or the parenthesis, along which they
are joined: "+(n h) d" puts all queries before all keys, "(n +h) d" the query of each head before its key. Where rows
of one tensor have different numbers of such pieces, the fewest count: beside keys of fewer heads, "(k +h) d", the
queries of each key's group lie together before it.

A parameter that the model at hand does not have is passed over, and so is one that has another number of axes: one
table serves a family's models with and without biases, with experts and without.
"""

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.errors import UserError
from model.layers import grouped
from model.transformer import abstract_params


@dataclasses.dataclass(frozen=True)
class Weight:
    """A row.

    Attributes:
      parameter: the dotted name of a parameter; after `blocks.` it goes on within a layer.
      tensor: the published name, with {layer} and {expert} for their numbers.
      axes: the arrangement; None where both are the same.
      copy: whether the tensor is a second copy, which a file may hold or not (tied unembeddings).
      where: the row counts where the model has this parameter too, or with "-" in front, where it has not.
    """

    parameter: str
    tensor: str
    axes: str | None = None
    copy: bool = False
    where: str = ""


@dataclasses.dataclass(frozen=True)
class Part:
    """A parameter, or a slice of it, as it lies in a tensor.

    Attributes:
      parameter: its dotted name, that of a stack of layers.
      index: of the slice: layer within the stack and expert, as far as there are such axes.
      held: the shape of the slice.
      split: the tensor's axes with all parentheses opened, in the tensor's order.
      order: the same axes in the parameter's order, by number; those of size 1 that it lacks come last.
      grouped: how many of `split` each axis of the tensor is made of.
      axis: the axis of the tensor along which its parts are joined.
      repeats: that axis is cut into so many runs, each of which holds a piece of every part; see `Tensor.repeats`.
    """

    parameter: str
    index: tuple[int, ...]
    held: tuple[int, ...]
    split: tuple[int, ...]
    order: tuple[int, ...]
    grouped: tuple[int, ...]
    axis: int
    repeats: int

    @property
    def shape(self) -> tuple[int, ...]:
        """What the tensor would be, were this its only part."""
        ends = np.cumsum((0, *self.grouped))
        return tuple(math.prod(self.split[a:b]) for a, b in itertools.pairwise(ends))

    def from_tensor(self, x: np.ndarray) -> np.ndarray:
        """The parameter's slice."""
        return x.reshape(self.split).transpose(self.order).reshape(self.held)

    def to_tensor(self, x: np.ndarray) -> np.ndarray:
        """The inverse of `from_tensor`."""
        turned = x.reshape([self.split[i] for i in self.order])
        return turned.transpose(np.argsort(self.order)).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A published tensor and what it holds."""

    name: str
    parts: tuple[Part, ...]
    copy: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        shapes, axis = [part.shape for part in self.parts], self.parts[0].axis
        return (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])

    @property
    def repeats(self) -> int:
        """How many runs the axis along which its parts are joined is cut into."""
        return min(part.repeats for part in self.parts)

    def taken_apart(self, x: np.ndarray) -> list[np.ndarray]:
        """The slices of parameters that a tensor holds, one for each part, as views where that is possible."""
        cut = x.reshape(self._cut(x.shape))
        ends = np.cumsum([part.shape[part.axis] // self.repeats for part in self.parts])[:-1]
        parts = zip(self.parts, np.split(cut, ends, axis=self.parts[0].axis + 1), strict=True)
        return [part.from_tensor(piece.reshape(part.shape)) for part, piece in parts]

    def put_together(self, slices: Sequence[np.ndarray]) -> np.ndarray:
        """The inverse of `taken_apart`."""
        if not self.parts[1:]:
            return self.parts[0].to_tensor(slices[0])  # a view where that is possible
        pieces = [part.to_tensor(x) for part, x in zip(self.parts, slices, strict=True)]
        cut = [piece.reshape(self._cut(piece.shape)) for piece in pieces]
        return np.concatenate(cut, axis=self.parts[0].axis + 1).reshape(self.shape)

    def _cut(self, shape: Sequence[int]) -> tuple[int, ...]:
        axis, repeats = self.parts[0].axis, self.repeats
        return (*shape[:axis], repeats, shape[axis] // repeats, *shape[axis + 1 :])


def by_name(params: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A tree of parameters as one dict from dotted names."""
    flat: dict[str, Any] = {}
    for name, value in params.items():
        flat |= by_name(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return flat


@functools.lru_cache(maxsize=8)
def tensors(weights: tuple[Weight, ...], config: ModelConfig) -> dict[str, Tensor]:
    """The tensors of a model by name, in the order of its table, layer by layer.

    Raises UserError when the table has no row for some parameter of the model.
    """
    shapes = {name: leaf.shape for name, leaf in by_name(abstract_params(config)).items()}
    parts: dict[str, list[Part]] = collections.defaultdict(list)
    for layer in (None, *range(config.num_layers)):
        for weight in weights:
            if not weight.copy and (layer is None) == ("{layer}" not in weight.tensor):
                for name, part in _parts(weight, config, layer, shapes):
                    parts[name].append(part)
    found = {name: Tensor(name, tuple(its)) for name, its in parts.items()}
    unknown = sorted(shapes.keys() - {part.parameter for tensor in found.values() for part in tensor.parts})
    if unknown:
        raise UserError(f"models of this family have no tensor for the parameters {', '.join(unknown)}")
    for weight in weights:
        if weight.copy and weight.tensor not in found:
            found[weight.tensor] = Tensor(weight.tensor, (_part(weight, shapes[weight.parameter], ()),), copy=True)
    return found


def _parts(
    weight: Weight, config: ModelConfig, layer: int | None, shapes: Mapping[str, tuple[int, ...]]
) -> list[tuple[str, Part]]:
    """What a row says of one layer: names of tensors, and their part."""
    parameter, where = weight.parameter, weight.where
    index: tuple[int, ...] = ()
    if layer is not None:
        stack, turn = _place(config, layer)
        parameter, where, index = parameter.replace("blocks", stack, 1), where.replace("blocks", stack, 1), (turn,)
    shape = shapes.get(parameter)
    if shape is None or (where and (where.removeprefix("-") in shapes) == where.startswith("-")):
        return []
    indices = [index]
    if "{expert}" in weight.tensor:
        indices = [(*index, expert) for expert in range(shape[len(index)])]
    inner = shape[len(indices[0]) :]
    if weight.axes is not None and len(_axes(weight.axes.partition("->")[2])) != len(inner):
        return []
    weight, known = dataclasses.replace(weight, parameter=parameter), {}
    if layer is not None and isinstance(attention := config.layers[layer].attention, GroupedQuery):
        known = {"k": attention.kv_heads}
    made = [_part(weight, inner, i, known) for i in indices]
    names = [weight.tensor.format(layer=layer, expert=i[-1] if i else 0) for i in indices]
    return list(zip(names, made, strict=True))


@functools.lru_cache(maxsize=4096)
def _place(config: ModelConfig, layer: int) -> tuple[str, int]:
    """The stack that holds a layer, and the layer's place in it."""
    groups = grouped(config.layers)
    for group in groups:
        for place, name in enumerate(group.names):
            if layer in (numbers := group.numbers(place)):
                alone = len(groups) == 1 and len(group.pattern) == 1
                return ("blocks" if alone else f"blocks.{name}"), numbers.index(layer)
    raise AssertionError(layer)


def _part(weight: Weight, shape: tuple[int, ...], index: tuple[int, ...], known: Mapping[str, int] = {}) -> Part:
    """The part that a row describes, for a parameter (or a slice of it) of a shape, and sizes that are known."""
    same = " ".join(f"x{i}" for i in range(len(shape)))
    left, _, right = (weight.axes or f"{same} -> {same}").partition("->")
    sizes, wanted = {"1": 1} | dict(known), []
    for axis, size in zip(_axes(right), shape, strict=True):
        names = re.findall(r"\w+", axis)
        rest = [name for name in names if len(names) == 1 or name not in sizes]
        for name in rest:
            sizes[name] = size // math.prod(sizes[other] for other in names if other not in rest)
        wanted += names
    axes = _axes(left)
    joined = next((i for i, axis in enumerate(axes) if "+" in axis), 0)
    before, plus, _ = axes[joined].partition("+")
    groups = [re.findall(r"\w+", axis) for axis in axes]
    there = [name for group in groups for name in group]
    order = [there.index(name) for name in wanted]
    return Part(
        parameter=weight.parameter,
        index=index,
        held=shape,
        split=tuple(sizes[name] for name in there),
        order=(*order, *(i for i in range(len(there)) if i not in order)),
        grouped=tuple(map(len, groups)),
        axis=joined,
        repeats=math.prod(sizes[name] for name in re.findall(r"\w+", before)) if plus else 1,
    )


def _axes(side: str) -> list[str]:
    """One side of an arrangement, cut into its axes."""
    return re.findall(r"\+?\([^)]*\)|\S+", side)
