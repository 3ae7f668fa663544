"""Optimizers, each with a learning rate that is searched for it: an untuned baseline is no baseline.

    python -m launch.sweep --config=configs/ablations/optimizers.py --run=runs/optimizers

Hardware: 2 CPU cores. Each rate is searched among five, a factor of 2 apart, by successive halving. The centre of the
five is the usual rate of each: Lion's is a tenth of AdamW's (Chen et al. 2023, section 5), and Muon's updates have the
size of AdamW's.
"""

import dataclasses

from configs.small import experiment
from train.experiment import Checkpoints, Training
from train.lab.ablation import Ablation, RateSearch

ablation = Ablation(
    base=dataclasses.replace(experiment, training=Training(num_steps=400), checkpoints=Checkpoints(every=400)),
    base_name="adamw",
    variants={
        "muon": "optimizer=Muon(weight_decay=0.1)",
        "lion": ("optimizer=Lion(weight_decay=0.1)", "schedule.peak=4e-4", "schedule.final=4e-5"),
        "adafactor": "optimizer=Adafactor(weight_decay=0.1)",
        "schedule_free": (
            "optimizer=ScheduleFreeAdamW(weight_decay=0.1)",
            "schedule=Constant(peak=4e-3, warmup_steps=40)",
        ),
    },
    search=RateSearch(),
)
