"""Tables of weights: which published tensor holds which parameter, and how its axes are arranged.

A row names a parameter of Cairn, a published tensor, and the arrangement that turns the tensor into the parameter.
Letters are axes; parentheses combine several axes into one, the first of them varying slowest. The letter k stands for
key heads, and 1 for an axis of size 1:

    Weight("blocks.mixer.query", "model.layers.{layer}.self_attn.q_proj.weight", "(n h) d -> d n h")

Rows that name the same tensor are its parts, in order. `+` stands before the axis, or the parenthesis, along which they
are joined: "+(n h) d" puts all queries before all keys, "(n +h) d" puts the query of each head before its key. Where
rows of one tensor have different numbers of such pieces, the smallest number counts: if there are fewer key heads,
"(k +h) d", the queries of all heads that share a key head lie together before that key.

A row is skipped if the model does not have its parameter, or if the parameter has another number of axes: one table
serves a family's models with and without biases, with and without experts.
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
    """A row of a table of weights.

    Attributes:
      parameter: the dotted name of a parameter; after `blocks.` comes its name within a layer.
      tensor: the published name, with {layer} and {expert} for their numbers.
      axes: the arrangement; None where tensor and parameter have the same axes.
      copy: whether the tensor is a second copy, which a file may hold or not (tied unembeddings).
      where: the row applies only if the model has this parameter too; with "-" in front, only if it does not.
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
      parameter: its dotted name; in a layer, that of the stack that holds the layer.
      index: the index of the slice: the layer within the stack and the expert, where the parameter has these axes.
      held: the shape of the slice.
      opened: the sizes of the tensor's axes with all parentheses opened, in the tensor's order.
      order: the same axes in the parameter's order, by number; axes of size 1 that the parameter lacks come last.
      grouped: for each axis of the tensor, how many axes of `opened` it combines.
      axis: the axis of the tensor along which its parts are joined.
      repeats: the number of sections of that axis, each of which holds a piece of every part; see `Tensor.repeats`.
    """

    parameter: str
    index: tuple[int, ...]
    held: tuple[int, ...]
    opened: tuple[int, ...]
    order: tuple[int, ...]
    grouped: tuple[int, ...]
    axis: int
    repeats: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the tensor would have if this were its only part."""
        ends = np.cumsum((0, *self.grouped))
        return tuple(math.prod(self.opened[a:b]) for a, b in itertools.pairwise(ends))

    def from_tensor(self, x: np.ndarray) -> np.ndarray:
        """Returns the parameter's slice from this part of a tensor."""
        return x.reshape(self.opened).transpose(self.order).reshape(self.held)

    def to_tensor(self, x: np.ndarray) -> np.ndarray:
        """The inverse of `from_tensor`."""
        turned = x.reshape([self.opened[i] for i in self.order])
        return turned.transpose(np.argsort(self.order)).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A published tensor and the parameters that it holds."""

    name: str
    parts: tuple[Part, ...]
    copy: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        shapes, axis = [part.shape for part in self.parts], self.parts[0].axis
        return (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])

    @property
    def repeats(self) -> int:
        """The number of sections of the axis along which its parts are joined."""
        return min(part.repeats for part in self.parts)

    def taken_apart(self, x: np.ndarray) -> list[np.ndarray]:
        """Returns the slices of parameters that a tensor holds, one for each part, as views where that is possible."""
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
    """Returns a tree of parameters as one flat dict with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in params.items():
        flat |= by_name(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return flat


@functools.lru_cache(maxsize=8)
def tensors(weights: tuple[Weight, ...], config: ModelConfig) -> dict[str, Tensor]:
    """Returns the tensors of a model by name, in the order of its table, layer by layer.

    Raises UserError when the table has no row for a parameter of the model.
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
    """Returns the names of the tensors that a row describes in one layer, each with its part."""
    parameter, where = weight.parameter, weight.where
    index: tuple[int, ...] = ()
    if layer is not None:
        stack, turn = _stack_of(config, layer)
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
    if layer is not None and isinstance(attention := config.layers[layer].mixer, GroupedQuery):
        known = {"k": attention.kv_heads}
    made = [_part(weight, inner, i, known) for i in indices]
    names = [weight.tensor.format(layer=layer, expert=i[-1] if i else 0) for i in indices]
    return list(zip(names, made, strict=True))


@functools.lru_cache(maxsize=4096)
def _stack_of(config: ModelConfig, layer: int) -> tuple[str, int]:
    """Returns the name of the stack that holds a layer, and the layer's index in it."""
    groups = grouped(config.layers)
    for group in groups:
        for index, name in enumerate(group.names):
            if layer in (numbers := group.numbers(index)):
                alone = len(groups) == 1 and len(group.pattern) == 1
                return ("blocks" if alone else f"blocks.{name}"), numbers.index(layer)
    raise AssertionError(layer)


def _part(weight: Weight, shape: tuple[int, ...], index: tuple[int, ...], known: Mapping[str, int] = {}) -> Part:
    """Returns the part that a row describes, for a parameter (or a slice of it) of this shape; `known` sizes help."""
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
        opened=tuple(sizes[name] for name in there),
        order=(*order, *(i for i in range(len(there)) if i not in order)),
        grouped=tuple(map(len, groups)),
        axis=joined,
        repeats=math.prod(sizes[name] for name in re.findall(r"\w+", before)) if plus else 1,
    )


def _axes(side: str) -> list[str]:
    """Splits one side of an arrangement into its axes."""
    return re.findall(r"\+?\([^)]*\)|\S+", side)
