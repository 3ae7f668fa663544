"""Reversal by GRPO: a text in, the reversed text out, learned from a reward of similarity alone.

    python -m launch.data instructions --path=data/reversal --grammar="Instructions(tasks=('reverse',), length=8)"
    python -m launch.train --config=configs/alignment/reversal.py --run=runs/reversal

Starts from runs/instructions_sft_short (configs/alignment/grpo.py makes it), whose model has seen words of at most five
symbols, and one task in four is reversing; here words have two to eight. The reward of an answer is the ratio of the
characters that it has in common with the right one, 1 for the right one itself. Minutes on 2 cores; it was not run to
its end yet.
"""

import dataclasses

from configs.alignment.grpo import experiment as grpo
from train.data.prompts import Prompts
from train.evaluation.named_evaluations import AnswerEvaluation
from train.experiment import Experiment
from train.objectives.policy import GRPO
from train.objectives.rollout_options import Reward, Rollouts

experiment: Experiment = dataclasses.replace(
    grpo,
    data=Prompts(path="data/reversal/prompts.train.jsonl", group=8, batch_size=256, sequence_length=44),
    objective=GRPO(
        reward=Reward(function="similarity"), rollouts=Rollouts(max_tokens=10, rows=32), clip_high=0.28, mean="token"
    ),
    training=dataclasses.replace(grpo.training, num_steps=60),
    evaluations=(AnswerEvaluation(name="answers", path="data/reversal/prompts.test.jsonl", every=60, max_tokens=16),),
)
