"""Optimizers, each with a learning rate that is searched for it: an untuned baseline is no baseline.

    python -m launch.sweep --config=configs/ablations/optimizers.py --run=runs/optimizers

Hardware: 2 CPU cores. Each rate is searched among five, a factor of 2 apart, by successive halving. Lion begins with a
tenth of AdamW's rate (Chen et al. 2023, section 5).
"""

from configs.small import experiment
from train.lab.ablation import Ablation, RateSearch

ablation = Ablation(
    base=experiment,
    base_name="muon",
    variants={
        "adamw": ("optimizer=AdamW(weight_decay=0.1)", "schedule.peak=4e-3"),
        "lion": ("optimizer=Lion(weight_decay=0.1)", "schedule.peak=4e-4"),
        "adafactor": ("optimizer=Adafactor(weight_decay=0.1)", "schedule.peak=4e-3"),
        "schedule_free": (
            "optimizer=ScheduleFreeAdamW(weight_decay=0.1)",
            "schedule=Constant(peak=4e-3, warmup_steps=20)",
        ),
    },
    search=RateSearch(),
)
