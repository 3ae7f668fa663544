"""PPO with a reward model: the model of instructions learns from its own answers, which a learned score judges.

    python -m launch.train --config=configs/alignment/sft.py --run=runs/instructions_sft_short \
        --set training.num_steps=120
    python -m launch.train --config=configs/alignment/reward.py --run=runs/instructions_reward
    python -m launch.train --config=configs/alignment/ppo.py --run=runs/instructions_ppo

Starts from a short supervised run, so that most answers are still wrong. Policy and value are one model with a score
head. With a checker in place of the reward model: --set 'objective.reward=Reward(function="exact")'. metrics.jsonl has
`reward`, `kl`, `value_loss`, `value_explained` and the numbers of configs/alignment/grpo.py. Minutes on 2 cores; it was
not run to its end yet, so that its rate and its coefficients are those of GRPO and of the papers, not tuned ones.
"""

import dataclasses

from configs.alignment.grpo import experiment as grpo
from model.vocabulary.score_head import ScoreHead
from train.data.prompts import Prompts
from train.experiment import Experiment
from train.objectives.ppo import PPO
from train.objectives.rollout_options import RewardOf, Rollouts

experiment: Experiment = dataclasses.replace(
    grpo,
    model=dataclasses.replace(grpo.model, score_head=ScoreHead(zero=True)),
    data=Prompts(path="data/instructions/prompts.train.jsonl", group=2, batch_size=256, sequence_length=40),
    objective=PPO(
        reward=RewardOf(run="runs/instructions_reward"),
        rollouts=Rollouts(max_tokens=8, rows=32),
        kl=0.05,
        value_clip=None,
    ),
    training=dataclasses.replace(grpo.training, num_steps=60),
)
