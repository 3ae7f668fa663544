"""The constants of the step-time model: each has a meaning and a unit, and was fitted once.

Measured, not fitted: how fast attention kernels run. Fitted: all fields of `Efficiency`.
"""

import dataclasses

# The share of the bf16 peak that a forward attention kernel reaches over visible pairs of a long causal sequence, by
# family and head width. TPU and Hopper: times in tokamax's autotuning data (bf16, causal; splash, cuDNN). v4 and v5e
# are taken to be like v5p, which has the same matrix unit. Ampere: Dao 2023, "FlashAttention-2", figure 5. Blackwell:
# Zadouri et al. 2026, "FlashAttention-4" (about 70% at width 128).
ATTENTION_SHARE: dict[str, dict[int, float]] = {
    "v4": {64: 0.46, 128: 0.92, 256: 0.95},
    "v5e": {64: 0.46, 128: 0.92, 256: 0.95},
    "v5p": {64: 0.46, 128: 0.92, 256: 0.95},
    "v6e": {64: 0.18, 128: 0.37, 256: 0.63},
    "v7x": {64: 0.16, 128: 0.33, 256: 0.56},
    "ampere": {64: 0.60, 128: 0.70, 256: 0.65},
    "hopper": {64: 0.53, 128: 0.67, 256: 0.67},
    "blackwell": {64: 0.50, 128: 0.65, 256: 0.65},
}
# Keys that a kernel computes in vain for each query, because its tiles are square: from the kernel times at 4,096 and
# at 16,384 tokens (v5p: 222 and 343 TFLOP/s; H100: 595 and 645).
TILE = {"tpu": 3700.0, "gpu": 500.0}
# FlashAttention-2 on Hopper by the fastest kernel, forward and backward: tokamax's Triton kernel reaches 344 to 366
# TFLOP/s forward (cuDNN: 595 to 645) and 314 to 338 backward (Mosaic: 408 to 452).
OLDER_FORWARD, OLDER_BACKWARD = 0.57, 0.76
BACKWARD_SHARE = 0.74  # speed of the backward kernel by that of the forward one (H100, tokamax Mosaic: 438 of 595)
HBM_SHARE = 0.8  # the share of the memory's rate that a long copy reaches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Fitted constants. All are shares of a rate on a data sheet, or multiples of a count in loads.py.

    Attributes:
      matmul: the share of the peak that large matrix products reach, by family.
      grouped_tpu, grouped_gpu: the speed of grouped products (experts) by that of plain ones.
      narrow: the share of the additional peak of fp8 and int8 that products reach, casts and scales included.
      traffic: the bytes that operations between products move, by the count in loads.py.
      dispatch: the same of the way to experts and back.
      links_tpu, links_gpu: the share of the rate of a torus' links, or of a node's switch, that collectives reach.
      network: the share of the slow network's rate.
      exposed_tpu, exposed_gpu: the share of a transfer of weights that is not hidden.
      blocking_tpu, blocking_gpu: the same of transfers inside a layer and of all-reduces after the last layer.
      attention_tpu, attention_gpu: the speed of attention in a step by that of its kernel alone.
      waiting: the share by which each doubling of the number of slices lengthens a step.
    """

    matmul: dict[str, float]
    grouped_tpu: float
    grouped_gpu: float
    narrow: float
    traffic: float
    dispatch: float
    links_tpu: float
    links_gpu: float
    network: float
    exposed_tpu: float
    exposed_gpu: float
    blocking_tpu: float
    blocking_gpu: float
    attention_tpu: float
    attention_gpu: float
    waiting: float


GUESS = Efficiency(
    matmul={
        "v4": 0.8, "v5e": 0.85, "v5p": 0.8, "v6e": 0.65, "v7x": 0.75, "ampere": 0.7, "hopper": 0.7, "blackwell": 0.7,
    },
    grouped_tpu=0.8,
    grouped_gpu=0.8,
    narrow=0.6,
    traffic=1.0,
    dispatch=2.0,
    links_tpu=0.8,
    links_gpu=0.7,
    network=0.6,
    exposed_tpu=0.1,
    exposed_gpu=0.2,
    blocking_tpu=0.3,
    blocking_gpu=0.7,
    attention_tpu=1.0,
    attention_gpu=0.9,
    waiting=0.04,
)
FITTED = GUESS
