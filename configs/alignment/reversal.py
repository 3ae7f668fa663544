"""Reversal by GRPO: a text in, the reversed text out, learned from a reward of similarity alone.

    python -m launch.data instructions --path=data/reversal --grammar="Instructions(tasks=('reverse',), length=8)"
    python -m launch.train --config=configs/alignment/reversal.py --run=runs/reversal

Starts from runs/instructions_sft_short (configs/alignment/grpo.py makes it), whose model has seen words of at most
five symbols, and one task in four is reversing; here words have two to eight. The reward of an answer is twice the
characters that it has in common with the right one over those of both, 1 for the right one itself. It tells little: a
drawn answer of the start has 0.76 of it in the mean, so that the share of right answers is the number to read.

Hardware: 84 s of one CPU core with all compilation, for 40 steps (one seed). The mean reward of drawn answers is 0.76
in the first five steps and 0.87 in the last; right, character for character, are 37% and 49%. Of greedy answers to
256 test prompts 46.1% are right before and 53.9% after (standard errors 3.1%).
"""

import dataclasses

from configs.alignment.grpo import experiment as grpo
from train.data.prompts import Prompts
from train.evaluation.named_evaluations import AnswerEvaluation
from train.experiment import Checkpoints, Evaluation, Experiment
from train.objectives.policy import GRPO
from train.objectives.rollout_options import Reward, Rollouts

experiment: Experiment = dataclasses.replace(
    grpo,
    data=Prompts(path="data/reversal/prompts.train.jsonl", group=8, batch_size=256, sequence_length=44),
    objective=GRPO(
        reward=Reward(function="similarity"), rollouts=Rollouts(max_tokens=10, rows=32), clip_high=0.28, mean="token"
    ),
    training=dataclasses.replace(grpo.training, num_steps=40),
    evaluation=Evaluation(every=20),
    evaluations=(AnswerEvaluation(name="answers", path="data/reversal/prompts.test.jsonl", every=20, max_tokens=16),),
    checkpoints=Checkpoints(every=20),
)
