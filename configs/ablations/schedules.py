"""Schedules of the learning rate with one peak: decays of three lengths and two shapes, cosine, and none.

    python -m launch.sweep --config=configs/ablations/schedules.py --run=runs/schedules

Hardware: 2 CPU cores, 38 min for 18 runs beside much other work. Hu et al. 2024, "MiniCPM", section 4; Hägele et al.
2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", for decays over a tenth to a fifth of
the steps.

Loss with seeds 0, 1, 2: a linear decay over 210 of 300 steps 4.137 (standard deviation over seeds 0.015). Differences
to it with 95% intervals: linear from the start +0.016 (0.013 to 0.018), the last 60 steps by 1-sqrt +0.035 (0.023 to
0.048) or linearly +0.041 (0.026 to 0.055), cosine +0.056 (0.052 to 0.061), no decay +0.167 (0.141 to 0.193), all worse,
p at most 0.013. A decay over a fifth ahead of cosine with the same peak is what both papers find; that a longer linear
decay is better still agrees with Defazio et al. 2023, "Optimal Linear Decay Learning Rate Schedules and Further
Refinements".
"""

from configs.small import experiment
from train.lab.ablation import Ablation
from train.schedules import Constant, Cosine, Linear, WarmupStableDecay

PEAK, WARMUP = 1e-2, 20

ablation = Ablation(
    base=experiment,
    base_name="wsd210",
    variants={
        "wsd60": {"schedule": WarmupStableDecay(peak=PEAK, warmup_steps=WARMUP, decay_steps=60)},
        "wsd60_sqrt": {"schedule": WarmupStableDecay(peak=PEAK, warmup_steps=WARMUP, decay_steps=60, shape="sqrt")},
        "linear": {"schedule": Linear(peak=PEAK, warmup_steps=WARMUP)},
        "cosine": {"schedule": Cosine(peak=PEAK, warmup_steps=WARMUP)},
        "constant": {"schedule": Constant(peak=PEAK, warmup_steps=WARMUP)},
    },
)
