"""Weights of few bits that are packed into words of 32 bits, GPTQ and AWQ, turned into numbers while they are read.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", and Lin et al.
2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration". Beside X.qweight stand X.scales
(groups, outputs), X.qzeros with a packed zero for each scale, and for GPTQ X.g_idx, the group of each input:
weight[o, i] = scales[g, o] (q[i, o] - zero[g, o]) with the group g of input i. GPTQ packs inputs, the first in the
lowest bits, and stores zeros less one (but not in its version 2); AWQ packs outputs in an order of its own.

Products are formed in float32 and rounded once.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from model.families.quantization import Packing
from train.conversion.folder import Positions, StoredTensor, TensorFiles

END = ".qweight"
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the output of each 4 bits, from the lowest on


@dataclasses.dataclass(frozen=True)
class PackedTensor:
    """A weight (outputs, inputs), and the stored tensors that it is made of; `groups` is None where groups follow."""

    name: str
    packing: Packing
    codes: StoredTensor
    zeros: StoredTensor
    scales: StoredTensor
    groups: StoredTensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """The outputs and inputs of the weight."""
        per_word = 1 if self.packing.is_awq else 32 // self.packing.bits
        return self.scales.shape[1], self.codes.shape[0] * per_word

    @property
    def stored(self) -> tuple[StoredTensor, ...]:
        """The stored tensors."""
        return self.codes, self.zeros, self.scales, *([] if self.groups is None else [self.groups])

    def read(self, folder: TensorFiles, positions: Positions, dtype: Any) -> np.ndarray:
        """The entries at these positions of the axes, in a format."""
        outputs, inputs = positions
        group_of = np.arange(self.shape[1]) // max(1, self.shape[1] // self.scales.shape[0])
        if self.groups is not None:
            group_of = folder.read(self.groups).astype(np.int64)
        scales = folder.read(self.scales).astype(np.float32)[:, outputs]
        zeros = self._unpacked(folder.read(self.zeros), axis=1)[:, outputs] + np.int32(self.packing.zero_offset)
        codes = self._unpacked(folder.read(self.codes), axis=1 if self.packing.is_awq else 0)
        group = group_of[inputs]
        numbers = (codes[np.ix_(inputs, outputs)] - zeros[group]).astype(np.float32) * scales[group]
        return np.ascontiguousarray(numbers.T).astype(dtype)

    def _unpacked(self, words: np.ndarray, axis: int) -> np.ndarray:
        """The numbers in the words of an axis, int32."""
        bits, count = self.packing.bits, 32 // self.packing.bits
        order = np.argsort(AWQ_ORDER) if self.packing.is_awq else np.arange(count)
        parts = (words.view(np.uint32)[..., None] >> (bits * order).astype(np.uint32)) & np.uint32((1 << bits) - 1)
        parts = np.moveaxis(parts, -1, axis + 1).astype(np.int32)
        return parts.reshape(*words.shape[:axis], words.shape[axis] * count, *words.shape[axis + 1 :])


def packed_tensors(
    stored: Mapping[str, StoredTensor], packing: Packing | None
) -> tuple[dict[str, PackedTensor], list[str]]:
    """The packed tensors of a folder by the name of the weight, and a line for each that is not whole."""
    found: dict[str, PackedTensor] = {}
    problems: list[str] = []
    for name, codes in stored.items():
        if packing is None or not name.endswith(END):
            continue
        stem = name.removesuffix(END)
        zeros, scales, groups = (stored.get(f"{stem}.{part}") for part in ("qzeros", "scales", "g_idx"))
        if zeros is None or scales is None:
            missing = "qzeros" if zeros is None else "scales"
            problems.append(f"{stem}.{missing} is missing beside {name}")
            continue
        made = PackedTensor(f"{stem}.weight", packing, codes, zeros, scales, groups)
        per_word = 32 // packing.bits
        outputs, inputs = made.shape
        wanted = (inputs, outputs // per_word) if packing.is_awq else (inputs // per_word, outputs)
        if (codes.dtype, codes.shape) != ("I32", wanted):
            problems.append(f"{name} is {codes.dtype} {_x(codes.shape)}, expected I32 {_x(wanted)}")
        elif (zeros.dtype, zeros.shape) != ("I32", (scales.shape[0], outputs // per_word)):
            problems.append(f"{zeros.name} is {zeros.dtype} {_x(zeros.shape)}, and {scales.name} {_x(scales.shape)}")
        elif inputs % scales.shape[0] and groups is None:
            problems.append(f"{scales.name} has {scales.shape[0]} groups, which {inputs} inputs do not fill")
        elif groups is not None and groups.shape != (inputs,):
            problems.append(f"{groups.name} is {_x(groups.shape)}, expected {inputs}")
        else:
            found[made.name] = made
    return found, problems


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
