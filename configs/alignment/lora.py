"""Adapters: the run of configs/alignment/sft.py with trained changes of low rank beside frozen matrices.

    python -m launch.train --config=configs/alignment/lora.py --run=runs/instructions_lora
    python -m launch.evaluate --run=runs/instructions_lora --questions=data/instructions/prompts.test.jsonl
    python -m launch.convert --run=runs/instructions_lora --to=runs/instructions_merged --merge

Starts from runs/instructions_base, as that run does. 87,552 numbers are trained beside 357,264 frozen ones: with
gradients and moments 2.83 MB, where the whole model takes 5.72 MB (train/run/parameter_table.py).

Hardware: one CPU core, 80 s beside other work, as long as the whole model takes. Exact match on 256 test prompts after
300 steps, seeds 0 to 5 of run and data, from one pre-trained model (tests/benchmarks/alignment/chain.py's):

    adapters       96.9%  96.5%  78.9%  77.3%  94.1%  96.1%    mean 90.0%, deviation 9.3%
    whole model    86.3%  91.8%  93.8%  95.3%  89.8%  96.5%    mean 92.3%, deviation 3.8%

The difference, -2.3% [-14.4%, +9.8%] (95%, paired t), is not shown, but two of six runs of adapters fell far behind.
The rate decides: with a peak of 1e-2 adapters reached 78.1% where the whole model had 93.5%, and with 3e-2 0.8% (one
seed each).
"""

import dataclasses

from configs.alignment.sft import experiment as sft
from model.parameters.adapters import LoRA
from train.experiment import Experiment
from train.schedules import Cosine

experiment: Experiment = dataclasses.replace(
    sft,
    model=dataclasses.replace(sft.model, adapters=LoRA(rank=16, alpha=32.0)),
    schedule=Cosine(peak=3e-3, final=3e-4, warmup_steps=20),
)
