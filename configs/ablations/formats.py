"""Number formats of training: float32, bfloat16 with float32 master weights, products in 8 bits.

python -m launch.sweep --config=configs/ablations/formats.py --run=runs/formats
"""

import dataclasses

from configs.small import experiment
from train.experiment import Checkpoints, Evaluation
from train.lab.ablation import Ablation
from train.schedules import WarmupStableDecay

STEPS = 150  # half of the tokens a step and half of the steps of the base: a CPU takes five times as long in 8 bits

ablation = Ablation(
    base=dataclasses.replace(
        experiment,
        data=dataclasses.replace(experiment.data, batch_size=8),
        training=dataclasses.replace(experiment.training, num_steps=STEPS),
        schedule=WarmupStableDecay(peak=1e-2, warmup_steps=20, decay_steps=105),
        evaluation=Evaluation(every=STEPS, max_batches=50),
        checkpoints=Checkpoints(every=STEPS),
    ),
    base_name="float32",
    variants={
        "bfloat16": "model.precision.compute=bfloat16",
        "int8": "model.precision.products=int8",
        "float8": "model.precision.products=float8",
    },
)
