"""Number formats of training: float32, bfloat16 with float32 master weights, products in 8 bits.

    python -m launch.sweep --config=configs/ablations/formats.py --run=runs/formats

Hardware: one CPU core, 70 min for twelve runs beside much other work. A CPU emulates the narrow formats, so that its
times say nothing of them: a step of 2,048 tokens takes 0.30 s in float32, 0.65 in bfloat16, 1.5 in int8, 1.6 in float8
(one core of a busy machine). Each variant changes one field: 8 bits are for the products with matrices of layers,
beside float32 elsewhere (model/parameters/quantized_products.py, with its sources).

Loss with seeds 0, 1, 2 after 153,600 tokens, the start of a training: float32 5.106 (standard deviation over seeds
0.016). Differences to it with 95% intervals: bfloat16 -0.009 (-0.035 to 0.017), int8 -0.002 (-0.025 to 0.021), float8
+0.009 (-0.025 to 0.044), p = 0.82 for each: not shown. Three seeds show a difference of 0.06. A cost of 8 bits, if any,
is less here than 0.021 for int8 and 0.044 for float8; whether it grows in a long training is not known.
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
