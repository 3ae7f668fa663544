"""Schedules of the learning rate with one peak: cosine, linear, two decays after a stable phase, and none.

    python -m launch.sweep --config=configs/ablations/schedules.py --run=runs/schedules

Hardware: 2 CPU cores. Hu et al. 2024, "MiniCPM", section 4; Hägele et al. 2024, "Scaling Laws and Compute-Optimal
Training Beyond Fixed Training Durations", for decays over a tenth to a fifth of the steps.
"""

from configs.small import experiment
from train.lab.ablation import Ablation
from train.schedules import Constant, Linear, WarmupStableDecay

PEAK, WARMUP = 4e-3, 40

ablation = Ablation(
    base=experiment,
    base_name="cosine",
    variants={
        "linear": {"schedule": Linear(peak=PEAK, warmup_steps=WARMUP)},
        "wsd": {"schedule": WarmupStableDecay(peak=PEAK, warmup_steps=WARMUP, decay_steps=120)},
        "wsd_sqrt": {"schedule": WarmupStableDecay(peak=PEAK, warmup_steps=WARMUP, decay_steps=120, shape="sqrt")},
        "constant": {"schedule": Constant(peak=PEAK, warmup_steps=WARMUP)},
    },
)
