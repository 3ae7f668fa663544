"""PPO with a reward model: the model of instructions learns from its own answers, which a learned score judges.

    python -m launch.train --config=configs/alignment/sft.py --run=runs/instructions_sft_short \
        --set training.num_steps=120
    python -m launch.train --config=configs/alignment/reward.py --run=runs/instructions_reward
    python -m launch.train --config=configs/alignment/ppo.py --run=runs/instructions_ppo

Starts from a short supervised run, after which nearly half of all greedy answers are wrong. Policy and value are one
model with a score head, which starts at zero: the values of a drawn one left 5.5 times the variance of the returns in
the first rollouts, and that noise is in the advantages. With a checker in place of the reward model: --set
'objective.reward=Reward(function="exact")'. metrics.jsonl has `reward`, `kl`, `value_loss`, `value_explained` and the
numbers of configs/alignment/grpo.py.

It gains from a checker with a small distance, and hardly from the reward model. By tests/benchmarks/alignment/chain.py,
from a start with 30.1% exact match, 256 greedy answers, seeds 0, 1 and 2 (95%, paired t):

    a checker, kl=0.02, gae_lambda=1.0, 120 steps                    40.4%    +10.3% [+2.9%, +17.7%]
    the reward model, this file (kl=1.0, 60 steps)                   31.1%     +1.0% [-1.0%, +3.1%]
    a judge who always takes the longer answer, kl=0, 25 steps        0.0%    -30.1% [-32.6%, -27.5%]
    the same judge with kl=1.0                                       30.5%     +0.4% [-1.3%, +2.1%]

Other distances, one seed, from a start with 55.5% exact match: means over drawn answers of the first five and of the
last five steps.

    reward model                                      kl     peak     steps        reward            right answers
    reward.py, 120 steps: 78% of held-out pairs       0.05   1.5e-4   26 of 40     +0.42 -> +0.77    49.5% -> 17.7%
    the same                                          0.5    1.5e-4   40           +0.41 -> +0.47    49.7% -> 50.8%
    a judge who always takes the longer answer        0      3e-4     25           -0.07 -> +1.74    42.7% -> 0.2%
    the same judge                                    1.0    3e-4     25           -0.14 -> -0.05    47.7% -> 45.1%
    a checker: Reward(function="exact")               0.05   1.5e-4   25           +0.50 -> +0.50    50.4% -> 50.2%

So the policy finds what a reward model does not know. In the first row answers grew from 4.1 tokens to 4.7, and the
worse answers of reward.py's pairs have hardly ever more than the right one: that this is the cause was not tested. A
large kl holds the policy where it was, and this file has it. Greedy answers to 256 test prompts were right in 0.0%
after the third row, 58.6% after the fourth and 58.2% after the fifth: no gain above their noise. A step takes about
one second of one CPU core. The third and the fourth row began with a drawn head.
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
        kl=1.0,
        value_clip=None,
    ),
    training=dataclasses.replace(grpo.training, num_steps=60),
)
