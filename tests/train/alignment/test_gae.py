"""Advantages and returns against their equations, token by token, in float64."""

import numpy as np
import pytest

from train.alignment.gae import advantages_and_returns, token_rewards, whitened

DRAW = np.random.default_rng(0)
FIRST, STOP = np.array([1, 0, 3, 2]), np.array([5, 7, 4, 7])  # the drawn tokens of each answer
DRAWN = ((np.arange(7) >= FIRST[:, None]) & (np.arange(7) < STOP[:, None])).astype(np.float32)
REWARDS, VALUES, LOG_RATIO = DRAW.normal(size=4), DRAW.normal(size=(4, 7)), DRAW.normal(size=(4, 7))


def test_tokens_of_a_tool_between_answers_are_no_steps():
    """Rewards, values and distances at drawn tokens alone decide, as if no other tokens were between them."""
    places = [0, 1, 4, 5]
    drawn = np.isin(np.arange(7), places)[None].astype(np.float32)
    of_tokens = token_rewards(REWARDS[:1], drawn, LOG_RATIO[:1], 0.3)
    found = advantages_and_returns(of_tokens, VALUES[:1], drawn, 0.9, 0.8)
    neighbours = token_rewards(REWARDS[:1], np.ones((1, 4)), LOG_RATIO[:1, places], 0.3)
    wanted = advantages_and_returns(neighbours, VALUES[:1, places], np.ones((1, 4)), 0.9, 0.8)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one[:, places], other, rtol=1e-12)
        assert (one[:, [2, 3, 6]] == 0).all()


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 1.0), (0.9, 0.0), (0.8, 0.7)])
@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_the_equations(gamma, lam, kl):
    of_tokens = token_rewards(REWARDS, DRAWN, LOG_RATIO if kl else None, kl)
    gains, returns = advantages_and_returns(of_tokens, VALUES, DRAWN, gamma, lam)
    expected = np.zeros((3, 4, 7))
    for i, (first, stop) in enumerate(zip(FIRST, STOP, strict=True)):
        rewards = [-kl * LOG_RATIO[i, t] + (REWARDS[i] if t == stop - 1 else 0) for t in range(first, stop)]
        values = [*VALUES[i, first:stop], 0.0]
        delta = [r + gamma * values[k + 1] - values[k] for k, r in enumerate(rewards)]
        for k in range(stop - first):
            gain = sum((gamma * lam) ** m * delta[k + m] for m in range(stop - first - k))
            expected[:, i, first + k] = rewards[k], gain, gain + values[k]
    for found, wanted in zip((of_tokens, gains, returns), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_with_lambda_1_returns_are_those_of_the_rewards_and_with_0_they_look_one_token_ahead():
    of_tokens = token_rewards(REWARDS, DRAWN, LOG_RATIO, 0.1)
    to_the_end = np.where(DRAWN > 0, np.cumsum(of_tokens[:, ::-1], axis=1)[:, ::-1], 0)
    np.testing.assert_allclose(advantages_and_returns(of_tokens, VALUES, DRAWN, 1.0, 1.0)[1], to_the_end, atol=1e-12)
    ahead = of_tokens + np.pad((VALUES * DRAWN)[:, 1:], ((0, 0), (0, 1)))
    found = advantages_and_returns(of_tokens, VALUES, DRAWN, 1.0, 0.0)[1]
    np.testing.assert_allclose(found, np.where(DRAWN > 0, ahead, 0), atol=1e-12)


def test_whitened_advantages_count_the_tokens_that_count():
    weights = DRAWN * np.array([[1], [0], [1], [1]])
    found = whitened(VALUES, weights)
    some = found[weights > 0]
    np.testing.assert_allclose([some.mean(), some.std()], [0, 1], atol=1e-6)
    assert (found[weights == 0] == 0).all()
    assert (whitened(VALUES, 0 * weights) == 0).all()
