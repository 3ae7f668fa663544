"""Optimizers, each with a learning rate that is searched for it: an untuned baseline is no baseline.

    python -m launch.sweep --config=configs/ablations/optimizers.py --run=runs/optimizers

Hardware: 2 CPU cores, 58 min of one of them beside other work: 40 short runs of the search, then 15. Each rate is
searched among five, a factor of 2 apart, by successive halving. Lion begins with a tenth of AdamW's rate (Chen et al.
2023, section 5).

Loss with seeds 0, 1, 2, the rate that was taken, and differences with 95% intervals: muon 4.178 (0.02); adamw +0.277
(0.229 to 0.325; 0.004), lion +0.369 (0.342 to 0.396; 0.0016), schedule_free +0.373 (0.192 to 0.555; 0.004), adafactor
+0.646 (0.463 to 0.829; 0.002); each worse than muon, p at most 0.012. Lion's rate is the last of its range, so one
beyond may be better; adamw's and schedule_free's is the highest of the second round, 0.008 having left after the first.
In both rounds of the search (75 and 150 of 300 steps) muon's 0.02 was ahead of 0.01, but over 300 steps 0.01, the rate
of `configs.small`, ends at 4.136: short rounds can take too high a rate.
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
