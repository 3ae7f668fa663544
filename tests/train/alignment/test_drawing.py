"""Draws of rollouts; what is drawn is tested in test_rollouts.py."""

from train.alignment.drawing import seed_of


def test_each_rollout_has_draws_of_its_own():
    assert len({seed_of(seed, rollout) for seed in range(3) for rollout in range(5)}) == 15
    assert seed_of(1, 2) == seed_of(1, 2) < 2**32
