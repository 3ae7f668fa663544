"""Generalised advantage estimation over the tokens of answers. NumPy, float64 inside.

With the rewards r_t and the values V_t of an answer's tokens, and V = 0 after the last:
  delta_t = r_t + gamma V_(t+1) - V_t
  A_t     = sum over l of (gamma lambda)^l delta_(t+l)        Schulman et al. 2015, "High-Dimensional Continuous Control
  return  = A_t + V_t                                         Using Generalized Advantage Estimation", equation 16

An answer that a limit cut off ends as any other: nothing is expected after its last token. Tokens of a tool between
two answers are no steps: the token after an answer's last one is the first of the next answer.
"""

import numpy as np

EPSILON = 1e-8


def token_rewards(
    rewards_R: np.ndarray, drawn_RT: np.ndarray, log_ratio_RT: np.ndarray | None, kl: float
) -> np.ndarray:
    """The reward of each token, float64 (R, T): Ouyang et al. 2022, equation 2, its distance spread over the tokens.

    Args:
      rewards_R: the rewards of the answers, which their last tokens get.
      drawn_RT: which tokens are drawn.
      log_ratio_RT: log p - log p_reference; None for no distance.
      kl: its coefficient.
    """
    drawn = np.asarray(drawn_RT) > 0
    is_last = drawn & (np.cumsum(drawn[:, ::-1], axis=1)[:, ::-1] == 1)
    rewards = np.where(is_last, np.asarray(rewards_R, np.float64)[:, None], 0.0)
    if log_ratio_RT is None:
        return rewards
    return rewards - kl * np.where(drawn, np.asarray(log_ratio_RT, np.float64), 0.0)


def advantages_and_returns(
    rewards_RT: np.ndarray, values_RT: np.ndarray, drawn_RT: np.ndarray, gamma: float, lam: float
) -> tuple[np.ndarray, np.ndarray]:
    """The advantage and the return of each drawn token, and 0 elsewhere, float64 (R, T).

    Args:
      rewards_RT: the result of `token_rewards`.
      values_RT: the values, each before its token is drawn.
      drawn_RT: which tokens are drawn.
      gamma: the discount of a token.
      lam: lambda.
    """
    drawn = np.asarray(drawn_RT) > 0
    values = np.where(drawn, np.asarray(values_RT, np.float64), 0.0)
    advantages = np.zeros_like(values)
    next_value = next_advantage = np.zeros(len(values))
    for t in reversed(range(values.shape[1])):
        advantage = rewards_RT[:, t] + gamma * next_value - values[:, t] + gamma * lam * next_advantage
        next_advantage = np.where(drawn[:, t], advantage, next_advantage)
        next_value = np.where(drawn[:, t], values[:, t], next_value)
        advantages[:, t] = advantage * drawn[:, t]
    return advantages, advantages + values


def whitened(x_RT: np.ndarray, weights_RT: np.ndarray) -> np.ndarray:
    """The same with mean 0 and deviation 1 over the tokens that count, and 0 elsewhere, float64 (R, T)."""
    counts = np.asarray(weights_RT) > 0
    if not counts.any():
        return np.zeros(x_RT.shape)
    some = x_RT[counts]
    return np.where(counts, (x_RT - some.mean()) / (some.std() + EPSILON), 0.0)
