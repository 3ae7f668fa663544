"""Schedules of the learning rate with one peak: decays of three lengths and two shapes, cosine, and none.

    python -m launch.sweep --config=configs/ablations/schedules.py --run=runs/schedules

Hardware: 2 CPU cores. Hu et al. 2024, "MiniCPM", section 4; Hägele et al. 2024, "Scaling Laws and Compute-Optimal
Training Beyond Fixed Training Durations", for decays over a tenth to a fifth of the steps.
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
