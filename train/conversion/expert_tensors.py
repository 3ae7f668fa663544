"""Experts that files hold in other pieces than the table of the family: split into experts, or joined to a layer.

Qwen3-VL's files hold a projection of all experts of a layer in one tensor, where Qwen3's have a tensor an expert. Llama
4's quantised files have a tensor an expert, where the others hold all experts of a layer in one.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from model.errors import UserError
from model.families.weights import Tensor
from train.conversion.folder import Positions, StoredTensor, TensorFiles
from train.conversion.quantized import Quantized, ScaledTensor

SCALES = ("_scale_inv", "_scale")
# The projections of one expert that a tensor of all experts holds, one after the other.
JOINED = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


@dataclasses.dataclass(frozen=True)
class ExpertTensor(StoredTensor):
    """A projection of one expert, (outputs, inputs), or its scales, from a tensor that holds all experts of a layer.

    Attributes:
      source: the part of the tensor that belongs to the expert: (outputs, inputs), or (inputs, outputs) as published.
      outputs: the outputs among those of the source.
      inputs_first: whether inputs come first in the source.
    """

    source: StoredTensor
    outputs: slice
    inputs_first: bool

    def read(self, folder: TensorFiles, positions: Positions, dtype: Any) -> np.ndarray:
        """The entries at these positions of the axes, in the stored format, whatever the wanted one is."""
        outputs, inputs = positions[0] + self.outputs.start, positions[1]
        if self.inputs_first:
            return folder.read(self.source, (inputs, outputs)).T
        return folder.read(self.source, (outputs, inputs))


def split_experts(
    stored: StoredTensor,
    tensors: Mapping[str, StoredTensor],
    expert_shapes: Mapping[str, tuple[int, int]],
    block: tuple[int, int] | None,
) -> Iterator[StoredTensor]:
    """Yields the tensors that a stored tensor holds: itself, or those of all its experts.

    Args:
      stored: the tensor: projections of experts, their scales, or any other.
      tensors: all tensors, by name.
      expert_shapes: the outputs and inputs of an expert's projections, by the names in `JOINED`.
      block: the entries of the last two axes that share a scale, where config.json says so.

    Raises:
      UserError: for scales that cannot be divided among the projections.
    """
    layer, _, name = stored.name.partition(".mlp.experts.")
    kind = next((name.removesuffix(end) for end in SCALES if name.endswith(end)), name)
    inputs_first = _inputs_first(f"{layer}.mlp.experts.", tensors, expert_shapes)
    if kind not in expert_shapes or inputs_first is None:
        yield stored
        return
    outputs, inputs = expert_shapes[kind]
    shape = tuple(stored.shape[1:]) if len(stored.shape) == 3 else (1, 1)
    if name != kind:
        if len(stored.shape) not in (1, 3) or not _divides(shape, inputs_first, outputs, block, len(JOINED[kind])):
            raise UserError(
                f"{stored.name} is {'x'.join(map(str, stored.shape))}: scales of {' and '.join(JOINED[kind])} cannot "
                "be told apart; take the model's repository that is not quantised"
            )
        outputs, inputs = shape[::-1] if inputs_first else shape
    size = (stored.end - stored.begin) // stored.shape[0]
    rows = outputs if outputs == 1 else outputs // len(JOINED[kind])
    for expert in range(stored.shape[0]):
        begin = stored.begin + expert * size
        source = dataclasses.replace(stored, shape=shape, begin=begin, end=begin + size)
        for number, projection in enumerate(JOINED[kind]):
            first = 0 if outputs == 1 else number * rows
            yield ExpertTensor(
                name=f"{layer}.mlp.experts.{expert}.{projection}.weight{name.removeprefix(kind)}",
                file=stored.file,
                dtype=stored.dtype,
                shape=(rows, inputs),
                begin=begin,
                end=begin + size * rows // outputs,
                source=source,
                outputs=slice(first, first + rows),
                inputs_first=inputs_first,
            )


def _inputs_first(
    experts: str, tensors: Mapping[str, StoredTensor], expert_shapes: Mapping[str, tuple[int, int]]
) -> bool | None:
    """Returns whether inputs come before outputs in a layer's experts; None where their shapes fit neither order."""
    shapes = {kind: tensors[experts + kind].shape[1:] for kind in expert_shapes if experts + kind in tensors}
    if shapes and all(shape == expert_shapes[kind] for kind, shape in shapes.items()):
        return False
    return True if shapes and all(shape == expert_shapes[kind][::-1] for kind, shape in shapes.items()) else None


def _divides(
    shape: tuple[int, ...], inputs_first: bool, outputs: int, block: tuple[int, int] | None, projections: int
) -> bool:
    """Returns whether no scale belongs to outputs of two projections, or one scale to all outputs of all."""
    count = shape[1] if inputs_first else shape[0]
    if projections == 1 or count == 1:
        return True
    if block is not None and count == -(-outputs // block[inputs_first]):
        return outputs // projections % block[inputs_first] == 0
    return count % projections == 0 and outputs % count == 0


@dataclasses.dataclass(frozen=True)
class JoinedExperts:
    """A tensor (experts, inputs, outputs) of quantised projections, (outputs, inputs), of single experts.

    Attributes:
      name: its name.
      experts: of each expert, the projections whose outputs lie one after the other.
    """

    name: str
    experts: tuple[tuple[ScaledTensor, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return len(self.experts), self.experts[0][0].shape[1], sum(one.shape[0] for one in self.experts[0])

    @property
    def stored(self) -> tuple[StoredTensor, ...]:
        """The stored tensors."""
        return tuple(stored for expert in self.experts for one in expert for stored in one.stored)

    def read(self, folder: TensorFiles, positions: Positions, dtype: Any) -> np.ndarray:
        """The entries at these positions of the axes, in a format."""
        experts, inputs, outputs = positions
        out = np.empty((len(experts), len(inputs), len(outputs)), dtype)
        for target, number in zip(out, experts, strict=True):
            first = 0
            for one in self.experts[number]:
                begin, end = np.searchsorted(outputs, (first, first + one.shape[0]))
                if end > begin:
                    target[:, begin:end] = one.read(folder, (outputs[begin:end] - first, inputs), dtype).T
                first += one.shape[0]
        return out


def join_experts(
    quantized: Mapping[str, Quantized], table: Mapping[str, Tensor]
) -> dict[str, Quantized | JoinedExperts]:
    """Returns the quantised tensors; those of single experts are joined where the table has all of a layer in one."""
    found: dict[str, Quantized | JoinedExperts] = dict(quantized)
    for name, tensor in table.items():
        layer, _, kind = name.rpartition(".")
        if name in found or kind not in JOINED or len(tensor.shape) != 3:
            continue
        names = [[f"{layer}.{number}.{one}.weight" for one in JOINED[kind]] for number in range(tensor.shape[0])]
        experts = [[quantized.get(one) for one in expert] for expert in names]
        whole = tuple(tuple(one for one in expert if isinstance(one, ScaledTensor)) for expert in experts)
        if len({tuple(one.shape for one in expert) for expert in whole}) == 1 and len(whole[0]) == len(JOINED[kind]):
            parts = {one for expert in names for one in expert}
            found = {other: one for other, one in found.items() if other not in parts}
            found[name] = JoinedExperts(name, whole)
    return found
