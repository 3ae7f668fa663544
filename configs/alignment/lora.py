"""Adapters: the run of configs/alignment/sft.py with trained changes of low rank beside frozen matrices.

    python -m launch.train --config=configs/alignment/lora.py --run=runs/instructions_lora
    python -m launch.evaluate --run=runs/instructions_lora --questions=data/instructions/prompts.test.jsonl
    python -m launch.convert --run=runs/instructions_lora --to=runs/instructions_merged --merge

Starts from runs/instructions_base, as that run does. NUMBERS
"""

import dataclasses

from configs.alignment.sft import experiment as sft
from model.parameters.adapters import LoRA
from train.experiment import Experiment
from train.schedules import Cosine

experiment: Experiment = dataclasses.replace(
    sft,
    model=dataclasses.replace(sft.model, adapters=LoRA(rank=16, alpha=32.0)),
    schedule=Cosine(peak=1e-2, final=1e-3, warmup_steps=20),
)
