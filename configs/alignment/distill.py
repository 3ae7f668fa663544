"""Distillation: a student of half the width learns the distribution of a teacher beside the text itself.

    python -m launch.train --config=configs/alignment/distill.py --run=runs/instructions_student

The teacher is runs/instructions_base, which configs/alignment/pretrain_instructions.py makes; the text is the same.
"""

import dataclasses

from configs.alignment.pretrain_instructions import experiment as base
from model.feedforward.mlp import Gated
from train.experiment import Experiment
from train.objectives.distillation import Distillation

experiment: Experiment = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, width=48, ffn=Gated(width=128, activation="silu")),
    objective=Distillation(teacher="runs/instructions_base", mixture=0.5, top_k=16),
)
