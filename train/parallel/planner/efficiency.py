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
# Assumed: set by hand, the last two after a look at the first residuals. Fitting moved most of them little (links to
# 0.69 and 0.62, network to 0.58, exposed to 0.11 and 0.23, blocking to 0.30 and 0.68, grouped to 0.55), and predicted
# rows without a part in the fit no better, those of mixtures of experts worse (tests/benchmarks/README.md).
HBM_SHARE = 0.8  # of the memory's rate that long copies reach
LINKS_SHARE = {"tpu": 0.8, "gpu": 0.7}  # of the rate of a torus, or of a node's switch, that collectives reach
NETWORK_SHARE = 0.6  # of the rate between slices or nodes
EXPOSED_SHARE = {"tpu": 0.1, "gpu": 0.2}  # of transfers of weights that computation does not hide
BLOCKING_SHARE = {"tpu": 0.3, "gpu": 0.7}  # the same of transfers inside a layer, and of all-reduces after the last
GROUPED_SHARE = 0.8  # the speed of grouped products (experts without a capacity) by that of plain ones


@dataclasses.dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Fitted constants. All are shares of a rate on a data sheet, or multiples of a count in loads.py.

    Attributes:
      matmul: the share of the peak that large matrix products reach, by family.
      narrow: the share of the additional peak of fp8 and int8 that products reach, casts and scales included.
      attention: the speed of attention in a step by that of its kernel alone, by kind of chip.
      traffic: the bytes that operations between products move, by the count in loads.py, without scores.
      dispatch: the bytes that the way to experts and back moves, by the count in loads.py.
      waiting: the share by which each doubling of the number of slices lengthens a step.
    """

    matmul: dict[str, float]
    narrow: float
    attention: dict[str, float]
    traffic: float
    dispatch: float
    waiting: float


# Fitted on 27 November 2026 to 111 published speeds (TPU v4 to v7x, A100 to GB200; dense models and mixtures) with
#     python -m tests.benchmarks.plan_accuracy pod_speeds.csv --fit
FITTED = Efficiency(
    matmul={
        "v4": 0.786,
        "v5e": 0.813,
        "v5p": 0.752,
        "v6e": 0.654,
        "v7x": 0.779,
        "ampere": 0.606,
        "hopper": 0.622,
        "blackwell": 0.601,
    },
    narrow=0.811,
    attention={"tpu": 1.27, "gpu": 0.641},
    traffic=1.23,
    dispatch=5.48,
    waiting=0.04,
)
