"""The operations of a training step against the peak of its devices: model FLOPs utilisation (MFU)."""

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp

from model.cost import training_flops_per_token
from train.experiment import Experiment
from train.parallel.planner.chips import CHIPS, TERA
from train.state import StateConfig


@dataclasses.dataclass(frozen=True)
class _Rates:
    """The published rates of one device.

    Attributes:
      peaks: teraFLOP/s, by the format of the factors.
      memory: bytes a second between the device and its memory; None where none is known.
    """

    peaks: dict[str, float] = dataclasses.field(default_factory=dict)
    memory: float | None = None


# Boards of the same chips at other speeds, by device kind; their data sheets are named in `peak_flops`.
_SLOWER_BOARDS = {
    "H200 NVL": _Rates({"bfloat16": 835.5, "float32": 417.5, "float8": 1670.5, "int8": 1670.5}, 4.8 * TERA),
    "H100 NVL": _Rates({"bfloat16": 835.5, "float32": 417.5, "float8": 1670.5, "int8": 1670.5}, 3.9 * TERA),
    "H100 PCIe": _Rates({"bfloat16": 756.5, "float32": 378, "float8": 1513, "int8": 1513}, 2.0 * TERA),
    "TPU v4 lite": _Rates(),  # an inference chip, not the v4
}
_FORMATS = {"bf16": "bfloat16", "fp8": "float8", "int8": "int8"}  # of chips.py


@dataclasses.dataclass(frozen=True)
class Utilization:
    """What MFU is made of.

    Attributes:
      flops_per_token: model FLOPs of one token in training (the convention of model/cost.py: no recomputation, causal
        pairs once).
      peak: the published peak of all devices in FLOP/s for the compute format; None where none is known.
    """

    flops_per_token: float
    peak: float | None

    @classmethod
    def of(cls, experiment: Experiment, mesh: jax.sharding.Mesh) -> Self:
        """The utilisation of an experiment on the devices of a mesh."""
        length, specs = experiment.data.sequence_length, StateConfig.of(experiment).specs
        peak = peak_flops(mesh.devices.flat[0].device_kind, experiment.model.precision.compute)
        return cls(
            training_flops_per_token(experiment.model, length, specs), None if peak is None else peak * mesh.size
        )

    def mfu(self, tokens_per_second: float) -> float | None:
        """Model FLOPs utilisation (Chowdhery et al. 2022, "PaLM", appendix B); None where no peak is known."""
        return None if self.peak is None else tokens_per_second * self.flops_per_token / self.peak


def peak_flops(device_kind: str, dtype: Any) -> float | None:
    """The published peak of matrix multiplication on one device, in FLOP/s, dense; None where none is known (a CPU).

    `device_kind` is `jax.devices()[0].device_kind`, `dtype` the type of the factors. Two conventions: float16 counts
    as bfloat16; and float32 counts as what JAX runs by default for it, TF32 on NVIDIA's GPUs and bfloat16 on TPUs.

    The peaks are those of chips.py, and of boards with slower forms of its chips, by NVIDIA's data sheets "H100 Tensor
    Core GPU" (2023) and "H200 Tensor Core GPU" (2024); where a sheet states the speed with 2:4 sparsity, half of it
    stands here. JAX sees one device a chip, and two of a TPU v7x.
    """
    name = jnp.dtype(dtype).name
    name = {"float16": "bfloat16"}.get(name, "float8" if name.startswith("float8") else name)
    tera = _rates(device_kind).peaks.get(name)
    return None if tera is None else tera * TERA


def memory_rate(device_kind: str) -> float | None:
    """The published bytes a second between one device and its memory; None where none is known (a CPU)."""
    return _rates(device_kind).memory


def _rates(device_kind: str) -> _Rates:
    """The rates of the longest known device kind that is a part of this one, which says most; no rates without one."""
    named = dict(_SLOWER_BOARDS)
    for chip in CHIPS.values():
        peaks = {_FORMATS[name]: rate / chip.devices / TERA for name, rate in chip.peak.items()}
        peaks["float32"] = peaks["bfloat16"] if chip.float32 is None else chip.float32 / TERA
        named |= dict.fromkeys(chip.kinds, _Rates(peaks, chip.hbm_rate / chip.devices))
    known = [kind for kind in named if kind.lower() in device_kind.lower()]
    return named[max(known, key=len)] if known else _Rates()
