"""Advantages against the equations, group by group."""

import numpy as np
import pytest

from train.alignment.advantages import advantages, differs, overlong_penalty

REWARDS = np.array([1.0, 0.0, 0.5, 0.0, 1.0, 1.0, 1.0, 1.0])


def test_the_equations():
    a, b = REWARDS[:4], REWARDS[4:]
    group = [(r - a.mean()) / (np.sqrt(((a - a.mean()) ** 2).sum() / 3) + 1e-4) for r in a] + [0.0] * 4
    np.testing.assert_allclose(advantages(REWARDS, 4, "group"), group, rtol=1e-6)
    np.testing.assert_allclose(advantages(REWARDS, 4, "mean"), [*(a - a.mean()), *(b - b.mean())], rtol=1e-6)
    others = [r - np.delete(a, i).mean() for i, r in enumerate(a)] + [0.0] * 4
    np.testing.assert_allclose(advantages(REWARDS, 4, "leave_one_out"), others, rtol=1e-6)


def test_groups_of_equal_rewards_are_found():
    assert differs(REWARDS, 4).tolist() == [True] * 4 + [False] * 4


def test_the_penalty_of_long_answers():
    assert overlong_penalty(np.array([5, 6, 8, 10, 12]), 10, 4).tolist() == [0, 0, -0.5, -1, -1]
    assert overlong_penalty(np.array([10]), 10, 0).tolist() == [0]


def test_an_unknown_length_of_groups_is_a_fault():
    with pytest.raises(ValueError, match="reshape"):
        advantages(REWARDS, 3, "mean")
