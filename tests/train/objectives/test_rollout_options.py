"""Options of rollouts that cannot be are refused by name."""

import pytest

from model.errors import UserError
from model.options.tree import check
from train.alignment.reward_worker import NAMED
from train.objectives.rollout_options import KNOWN_REWARDS, Reward, Rollouts, Tool


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (Reward(function="exactly"), "function: expected FILE.py:FUNCTION or one of exact, lenient, math, "),
        (Reward(function="own.py:1"), "function: expected FILE.py:FUNCTION"),
        (Reward(seconds=0.0), "seconds: must be above 0"),
        (Tool(function="own"), "function: expected FILE.py:FUNCTION, got 'own'"),
        (Tool(function="own.py:f", turns=1), "turns: must be at least 2"),
        (Tool(function="own.py:f", seconds=0.0), "seconds: must be above 0"),
        (Rollouts(max_tokens=0), "max_tokens: must be at least 1"),
        (Rollouts(temperature=0.0), "temperature: must be above 0: a greedy policy draws nothing"),
    ],
)
def test_they_are_refused(option, said):
    with pytest.raises(UserError, match=said):
        check(option, "option")


def test_the_known_rewards_are_those_of_the_process():
    assert set(KNOWN_REWARDS) == set(NAMED)
