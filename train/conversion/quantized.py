"""Quantised tensors of published files, turned into the run's format while they are read.

Which tensors are quantised is said by the files: a scale beside a weight, X_scale or X_scale_inv beside X, or blocks
and scales in the place of a weight, X_blocks and X_scales. A weight of 8-bit floats is multiplied by its scale: one for
the tensor, for a row, or for a block. In MXFP4 (Rouhani et al. 2023, "Microscaling Data Formats for Deep Learning") a
byte holds two 4-bit floats, the first in its lower half, and 32 of them share a power of two.

Products are formed in float32 and rounded once, as `transformers` and `compressed_tensors` do.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from model.families.quantization import Quantization
from model.families.regions import as_slice
from train.conversion.folder import DTYPES, Positions, StoredTensor, TensorFiles
from train.conversion.packed import PackedTensor, packed_tensors

FP8 = ("F8_E4M3", "F8_E5M2")
SCALE_DTYPES = ("BF16", "F16", "F32", "F8_E8M0", "U8")  # U8: the exponent of a power of two, as in F8_E8M0
FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
GROUP = 32  # MXFP4 numbers that share a scale
# Scales of activations and of keys and values in a cache: kernels of 8-bit products need them.
ACTIVATION_SCALES = (
    *(".input_scale", ".input_scale_ub", ".output_scale", ".activation_scale", "_activation_scale"),
    *(".q_scale", ".k_scale", ".v_scale"),
)
SLAB = 1 << 20  # numbers that are multiplied at a time


@dataclasses.dataclass(frozen=True)
class ScaledTensor:
    """A weight of 8-bit floats and its scales.

    Attributes:
      weight, scale: the stored tensors.
      block: the rows and columns, of the last two axes, that share a scale.
      rounds_like_scale: see `Quantization`.
    """

    weight: StoredTensor
    scale: StoredTensor
    block: tuple[int, int]
    rounds_like_scale: bool = False

    @property
    def name(self) -> str:
        """The weight's name."""
        return self.weight.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return self.weight.shape

    @property
    def stored(self) -> tuple[StoredTensor, ...]:
        """The stored tensors."""
        return self.weight, self.scale

    def read(self, folder: TensorFiles, positions: Positions, dtype: Any) -> np.ndarray:
        """The entries at these positions of the axes, in a format."""
        everywhere = [np.arange(size) for size in self.scale.shape]
        scale = _scale_values(self.scale.read(folder, everywhere, None), self.scale.dtype)
        codes = self.weight.read(folder, positions, None).view(np.uint8)
        out = np.empty(codes.shape, dtype)
        *leading, rows, columns = (np.zeros(1, np.int64),) * (2 - len(self.shape)) + tuple(positions)
        matrices, flat = (x.reshape(-1, len(rows), len(columns)) for x in (codes, out))
        grid = tuple(math.ceil(size / part) for size, part in zip((1, *self.shape)[-2:], self.block, strict=True))
        scale = scale.reshape(*scale.shape[: max(0, scale.ndim - 2)], *grid)
        scale = scale[np.ix_(*leading)] if scale.ndim > 2 else scale
        scales = np.broadcast_to(scale, (*codes.shape[: len(leading)], *grid)).reshape(-1, *grid)
        rounding = DTYPES[self.scale.dtype] if self.rounds_like_scale else np.float32
        numbers = np.arange(256, dtype=np.uint8).view(DTYPES[self.weight.dtype]).astype(np.float32)
        step = max(1, SLAB // len(columns))
        for matrix, scale, target in zip(matrices, scales, flat, strict=True):
            wide = scale[:, columns // self.block[1]]
            for first in range(0, len(rows), step):
                slab = slice(first, first + step)
                product = numbers[matrix[slab]] * wide[rows[slab] // self.block[0]]
                target[slab] = product.astype(rounding, copy=False)
        return out


@dataclasses.dataclass(frozen=True)
class MXFP4Tensor:
    """Experts in MXFP4: blocks (E, F, groups, 16) and scales (E, F, groups) of a tensor (E, groups * 32, F)."""

    name: str
    blocks: StoredTensor
    scales: StoredTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor, whose last two axes are swapped in the files."""
        experts, features, groups, _ = self.blocks.shape
        return experts, groups * GROUP, features

    @property
    def stored(self) -> tuple[StoredTensor, ...]:
        """The stored tensors."""
        return self.blocks, self.scales

    def read(self, folder: TensorFiles, positions: Positions, dtype: Any) -> np.ndarray:
        """The entries at these positions of the axes, in a format."""
        experts, inner, features = positions
        groups = np.unique(inner // GROUP)
        scales = _scale_values(folder.read(self.scales, (experts, features, groups)), "U8")
        blocks = folder.read(self.blocks, (experts, features, groups, np.arange(GROUP // 2)))
        values = np.array([*FP4_VALUES, *(-x for x in FP4_VALUES)], np.float32)
        pairs = np.stack([np.tile(values, 16), np.repeat(values, 16)], axis=1)  # of a byte: lower half, upper half
        held = (groups[:, None] * GROUP + np.arange(GROUP)).ravel()
        wanted = as_slice(np.searchsorted(held, inner))
        out = np.empty((len(experts), len(features), len(inner)), dtype)
        step = max(1, SLAB // len(held))
        for e in range(len(experts)):
            for first in range(0, len(features), step):
                slab = slice(first, first + step)
                product = pairs[blocks[e, slab]].reshape(-1, len(groups), GROUP) * scales[e, slab, :, None]
                out[e, slab] = product.reshape(-1, len(held))[:, wanted]
        return out.transpose(0, 2, 1)


Quantized = ScaledTensor | MXFP4Tensor | PackedTensor


def quantized_tensors(
    stored: Mapping[str, StoredTensor], quantization: Quantization | None
) -> tuple[dict[str, Quantized], set[str], list[str]]:
    """Finds the quantised tensors of a folder.

    Args:
      stored: the tensors of its files, by name.
      quantization: what config.json says; None if it says nothing.

    Returns:
      The quantised tensors by the name of the weight; the names of scales of activations, which are left out; and a
      line for each weight without a scale, and each scale without a weight or of another shape.
    """
    packed, problems = packed_tensors(stored, None if quantization is None else quantization.packing)
    found: dict[str, Quantized] = dict(packed)
    left_out: set[str] = set()
    for name, tensor in stored.items():
        if tensor.dtype == "U8" and name.endswith(("_blocks", "_scales")):
            _add_mxfp4(name.rpartition("_")[0], stored, found, problems)
        elif tensor.dtype in FP8:
            scale = next((stored[name + end] for end in ("_scale_inv", "_scale") if name + end in stored), None)
            if scale is None:
                problems.append(f"{name} is {tensor.dtype}, and its scale {name}_scale_inv or {name}_scale is missing")
                continue
            block = _block(tensor.shape, scale, quantization)
            if isinstance(block, str):
                problems.append(block)
            else:
                rounds = quantization is not None and quantization.rounds_like_scale
                found[name] = ScaledTensor(tensor, scale, block, rounds)
        elif quantization is not None and name.endswith(ACTIVATION_SCALES):
            left_out.add(name)
        elif quantization is not None and name.endswith(("_scale", "_scale_inv")):
            weight = stored.get(name.removesuffix("_inv").removesuffix("_scale"))
            if weight is not None and weight.dtype not in FP8:
                problems.append(f"{name} is a scale, but {weight.name} is {weight.dtype}, expected F8_E4M3")
    return found, left_out, sorted(set(problems))


def _add_mxfp4(name: str, stored: Mapping[str, StoredTensor], found: dict[str, Quantized], problems: list[str]) -> None:
    blocks, scales = (stored.get(name + end) for end in ("_blocks", "_scales"))
    if blocks is None or scales is None:
        ends = ("_blocks", "_scales") if blocks is None else ("_scales", "_blocks")
        problems.append(f"{name}{ends[0]} is missing beside {name}{ends[1]}")
    elif blocks.dtype != "U8" or len(blocks.shape) != 4 or blocks.shape[-1] != GROUP // 2:
        problems.append(f"{blocks.name} is {blocks.dtype} {_x(blocks.shape)}, expected U8 of 4 axes, the last of 16")
    elif scales.dtype != "U8" or scales.shape != blocks.shape[:-1]:
        problems.append(f"{scales.name} is {scales.dtype} {_x(scales.shape)}, expected U8 {_x(blocks.shape[:-1])}")
    else:
        found[name] = MXFP4Tensor(name, blocks, scales)


def _block(shape: tuple[int, ...], scale: StoredTensor, quantization: Quantization | None) -> tuple[int, int] | str:
    """The rows and columns of a weight that share a scale, or a line about the scale that fits no rule."""
    rows, columns = (1, 1, *shape)[-2:]
    if scale.dtype not in SCALE_DTYPES:
        return f"{scale.name} is {scale.dtype}, expected {', '.join(SCALE_DTYPES)}"
    block = quantization.block if quantization is not None else None
    if math.prod(scale.shape) == 1:
        return rows, columns
    leading, grid = scale.shape[:-2], scale.shape[-2:]
    if len(scale.shape) == 1:  # a scale a row
        leading, grid = (), (scale.shape[0], 1)
    if leading in ((), shape[:-2]):
        if block is not None and grid == (-(-rows // block[0]), -(-columns // block[1])):
            return block
        if grid in ((rows, 1), (1, columns)) or (block is None and not rows % grid[0] and not columns % grid[1]):
            return rows // grid[0], columns // grid[1]
    wanted = "one for the tensor, or one a row"
    if block is not None:
        wanted = f"{-(-rows // block[0])}x{-(-columns // block[1])}, one for each block of {block[0]}x{block[1]}"
    return f"{scale.name} is {_x(scale.shape)}, expected {wanted} of {_x(shape)}"


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def _scale_values(x: np.ndarray, dtype: str) -> np.ndarray:
    """Scales in float32."""
    return np.exp2(x.astype(np.float32) - 127) if dtype == "U8" else x.astype(np.float32)
