"""Rotary positions against none, in a few minutes: the smallest complete sweep.

    make ablation-demo
    python -m launch.sweep --config=configs/ablations/demo.py --run=runs/demo

Hardware: 2 CPU cores. Two variants with three seeds, on the sources of Python's standard library.
"""

import dataclasses

from configs.small import experiment
from train.experiment import Checkpoints, Evaluation, Training
from train.lab.ablation import Ablation

ablation = Ablation(
    base=dataclasses.replace(
        experiment,
        training=Training(num_steps=200),
        evaluation=Evaluation(every=50, max_batches=50),
        checkpoints=Checkpoints(every=200),
    ),
    base_name="rotary",
    variants={"none": "model.position=NoPositions()"},
)
