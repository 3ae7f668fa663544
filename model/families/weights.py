"""Tables of weights: which published tensor holds which parameter, and how its axes are arranged.

A row names a parameter of Cairn, a published tensor, and the arrangement that turns the tensor into the parameter.
Letters are axes; parentheses combine several axes into one, the first of them varying slowest. The letter k stands for
key heads, and 1 for an axis of size 1:

    Weight("blocks.mixer.query", "model.layers.{layer}.self_attn.q_proj.weight", "(n h) d -> d n h")

Rows that name the same tensor are its parts, in order. `+` stands before the axis, or the parenthesis, along which they
are joined: "+(n h) d" puts all queries before all keys, "(n +h) d" puts the query of each head before its key. Where
rows of one tensor have different numbers of such pieces, the smallest number counts: if there are fewer key heads,
"(k +h) d", the queries of all heads that share a key head lie together before that key. `~` stands before an axis that
the tensor has in the opposite order: the last tap of `nn.Conv1d` is that of the current token, "+(n h) 1 ~j -> j n h".

Names that begin with `encoder.blocks.` are those of an encoder's layers, whose numbers {layer} then has.

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

import numpy as np

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.errors import UserError
from model.layers import group_layers
from model.parameters.names import flatten
from model.recurrent.delta import GatedDelta
from model.transformer import abstract_params


@dataclasses.dataclass(frozen=True)
class Weight:
    """A row of a table of weights.

    Attributes:
      parameter: the dotted name of a parameter; after `blocks.` comes its name within a layer.
      tensor: the published name, with {layer} and {expert} for their numbers.
      axes: the arrangement; None where tensor and parameter have the same axes.
      copy: whether the tensor is a second copy, which a file may hold or not (tied unembeddings).
      else_zeros: whether a file may lack the tensor, whose entries are then 0.
      condition: a parameter; the row applies only if the model has it, or, with "-" in front, only if it does not.
    """

    parameter: str
    tensor: str
    axes: str | None = None
    copy: bool = False
    else_zeros: bool = False
    condition: str = ""


@dataclasses.dataclass(frozen=True)
class Part:
    """A parameter, or a slice of it, as it lies in a tensor.

    Attributes:
      parameter: its dotted name; in a layer, that of the stack that holds the layer.
      index: the index of the slice: the layer within the stack and the expert, where the parameter has these axes.
      slice_shape: the shape of the slice.
      split_shape: the shape of the tensor with all combined axes split, in the tensor's order.
      permutation: the same axes in the parameter's order, by number; axes of size 1 that the parameter lacks come last.
      split_ranks: for each axis of the tensor, how many axes of `split_shape` it combines.
      join_axis: the axis of the tensor along which its parts are joined.
      sections: the number of sections of that axis, each of which holds a piece of every part; see `Tensor.sections`.
      reversed_axes: the axes of `split_shape` that the tensor has in the opposite order.
    """

    parameter: str
    index: tuple[int, ...]
    slice_shape: tuple[int, ...]
    split_shape: tuple[int, ...]
    permutation: tuple[int, ...]
    split_ranks: tuple[int, ...]
    join_axis: int
    sections: int
    reversed_axes: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the tensor would have if this were its only part."""
        ends = np.cumsum((0, *self.split_ranks))
        return tuple(math.prod(self.split_shape[a:b]) for a, b in itertools.pairwise(ends))

    def from_tensor(self, x: np.ndarray) -> np.ndarray:
        """Returns the parameter's slice from this part of a tensor."""
        split = self._reverse(x.reshape(self.split_shape))
        return split.transpose(self.permutation).reshape(self.slice_shape)

    def to_tensor(self, x: np.ndarray) -> np.ndarray:
        """The inverse of `from_tensor`."""
        split = x.reshape([self.split_shape[i] for i in self.permutation])
        return self._reverse(split.transpose(np.argsort(self.permutation))).reshape(self.shape)

    def _reverse(self, split: np.ndarray) -> np.ndarray:
        return np.flip(split, self.reversed_axes) if self.reversed_axes else split


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A published tensor and the parameters that it holds; `copy` and `else_zeros` as in `Weight`."""

    name: str
    parts: tuple[Part, ...]
    copy: bool = False
    else_zeros: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        shapes, axis = [part.shape for part in self.parts], self.parts[0].join_axis
        return (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])

    @property
    def sections(self) -> int:
        """The number of sections of the axis along which its parts are joined."""
        return min(part.sections for part in self.parts)

    def split(self, x: np.ndarray) -> list[np.ndarray]:
        """Returns the slices of parameters that a tensor holds, one for each part, as views where that is possible."""
        sectioned = x.reshape(self._sectioned_shape(x.shape))
        ends = np.cumsum([part.shape[part.join_axis] // self.sections for part in self.parts])[:-1]
        parts = zip(self.parts, np.split(sectioned, ends, axis=self.parts[0].join_axis + 1), strict=True)
        return [part.from_tensor(piece.reshape(part.shape)) for part, piece in parts]

    def join(self, slices: Sequence[np.ndarray]) -> np.ndarray:
        """The inverse of `split`."""
        if not self.parts[1:]:
            return self.parts[0].to_tensor(slices[0])  # a view where that is possible
        pieces = [part.to_tensor(x) for part, x in zip(self.parts, slices, strict=True)]
        sectioned = [piece.reshape(self._sectioned_shape(piece.shape)) for piece in pieces]
        return np.concatenate(sectioned, axis=self.parts[0].join_axis + 1).reshape(self.shape)

    def _sectioned_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape of an array whose join axis is split into sections and their entries."""
        axis, sections = self.parts[0].join_axis, self.sections
        return (*shape[:axis], sections, shape[axis] // sections, *shape[axis + 1 :])


@functools.lru_cache(maxsize=8)
def tensors(weights: tuple[Weight, ...], config: ModelConfig) -> dict[str, Tensor]:
    """Returns the tensors of a model by name, in the order of its table, layer by layer.

    Raises UserError when the table has no row for a parameter of the model.
    """
    shapes = {name: leaf.shape for name, leaf in flatten(abstract_params(config)).items()}
    parts: dict[str, list[Part]] = collections.defaultdict(list)
    encoder = 0 if config.encoder is None else config.encoder.num_layers
    for layer in (None, *range(max(config.num_layers, encoder))):
        for weight in weights:
            if not weight.copy and (layer is None) == ("{layer}" not in weight.tensor):
                for name, part in _parts(weight, config, layer, shapes):
                    parts[name].append(part)
    else_zeros = {weight.tensor for weight in weights if weight.else_zeros}
    found = {name: Tensor(name, tuple(listed), else_zeros=name in else_zeros) for name, listed in parts.items()}
    unmapped = sorted(shapes.keys() - {part.parameter for tensor in found.values() for part in tensor.parts})
    if unmapped:
        raise UserError(f"models of this family have no tensor for the parameters {', '.join(unmapped)}")
    for weight in weights:
        if weight.copy and weight.tensor not in found:
            found[weight.tensor] = Tensor(weight.tensor, (_part(weight, shapes[weight.parameter], ()),), copy=True)
    return found


def _parts(
    weight: Weight, config: ModelConfig, layer: int | None, shapes: Mapping[str, tuple[int, ...]]
) -> list[tuple[str, Part]]:
    """Returns the names of the tensors that a row describes in one layer, each with its part."""
    parameter, condition = weight.parameter, weight.condition
    if parameter.startswith("encoder.") and config.encoder is not None:
        config = config.encoder.as_model(config)
    index: tuple[int, ...] = ()
    if layer is not None:
        if layer >= config.num_layers:
            return []
        stack, row = _stack_and_row(config, layer)
        parameter, condition = parameter.replace("blocks", stack, 1), condition.replace("blocks", stack, 1)
        index = (row,)
    shape = shapes.get(parameter)
    if shape is None or (condition and (condition.removeprefix("-") in shapes) == condition.startswith("-")):
        return []
    indices = [index]
    if "{expert}" in weight.tensor:
        indices = [(*index, expert) for expert in range(shape[len(index)])]
    slice_shape = shape[len(indices[0]) :]
    if weight.axes is not None and len(_axes(weight.axes.partition("->")[2])) != len(slice_shape):
        return []
    weight, known_sizes = dataclasses.replace(weight, parameter=parameter), {}
    mixer = None if layer is None else config.layers[layer].mixer
    if isinstance(mixer, GroupedQuery | GatedDelta):
        known_sizes = {"k": mixer.kv_heads if isinstance(mixer, GroupedQuery) else mixer.key_heads}
    parts = [_part(weight, slice_shape, i, known_sizes) for i in indices]
    names = [weight.tensor.format(layer=layer, expert=i[-1] if i else 0) for i in indices]
    return list(zip(names, parts, strict=True))


@functools.lru_cache(maxsize=4096)
def _stack_and_row(config: ModelConfig, layer: int) -> tuple[str, int]:
    """Returns the name of the stack that holds a layer, and the layer's row in it."""
    groups = group_layers(config.layers)
    for group in groups:
        for index, name in enumerate(group.stack_names):
            if layer in (numbers := group.layer_numbers(index)):
                alone = len(groups) == 1 and len(group.pattern) == 1
                return ("blocks" if alone else f"blocks.{name}"), numbers.index(layer)
    raise AssertionError(layer)


def _part(weight: Weight, shape: tuple[int, ...], index: tuple[int, ...], known_sizes: Mapping[str, int] = {}) -> Part:
    """Returns the part that a row describes, for a parameter (or a slice of it) of this shape.

    `known_sizes` are the sizes of axes that do not follow from the shape alone.
    """
    identity = " ".join(f"x{i}" for i in range(len(shape)))
    tensor_side, _, parameter_side = (weight.axes or f"{identity} -> {identity}").partition("->")
    sizes, parameter_axes = {"1": 1} | dict(known_sizes), []
    for axis, size in zip(_axes(parameter_side), shape, strict=True):
        names = re.findall(r"\w+", axis)
        unknown = [name for name in names if len(names) == 1 or name not in sizes]
        for name in unknown:
            sizes[name] = size // math.prod(sizes[other] for other in names if other not in unknown)
        parameter_axes += names
    axes = _axes(tensor_side)
    join_axis = next((i for i, axis in enumerate(axes) if "+" in axis), 0)
    before, plus, _ = axes[join_axis].partition("+")
    groups = [re.findall(r"\w+", axis) for axis in axes]
    tensor_axes = [name for group in groups for name in group]
    backwards = re.findall(r"~(\w+)", tensor_side)
    permutation = [tensor_axes.index(name) for name in parameter_axes]
    return Part(
        parameter=weight.parameter,
        index=index,
        slice_shape=shape,
        split_shape=tuple(sizes[name] for name in tensor_axes),
        permutation=(*permutation, *(i for i in range(len(tensor_axes)) if i not in permutation)),
        split_ranks=tuple(map(len, groups)),
        join_axis=join_axis,
        sections=math.prod(sizes[name] for name in re.findall(r"\w+", before)) if plus else 1,
        reversed_axes=tuple(i for i, name in enumerate(tensor_axes) if name in backwards),
    )


def _axes(side: str) -> list[str]:
    """Splits one side of an arrangement into its axes."""
    return re.findall(r"\+?\([^)]*\)|\S+", side)
