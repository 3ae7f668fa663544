"""Advantages of rollouts within their group: all samples of one prompt. NumPy, float64 inside.

With the rewards r_1 .. r_G of a group:
  group           (r_i - mean r) / (std r + 1e-4)      Shao et al. 2024, "DeepSeekMath", section 4.1.2: GRPO
  mean            r_i - mean r                         Liu et al. 2025, "Understanding R1-Zero-Like Training": Dr. GRPO
  leave_one_out   r_i - mean of the others' rewards    Ahmadian et al. 2024, "Back to Basics", equation 7: RLOO

The std is that of the sample (ddof=1), as in TRL; groups of equal rewards have advantages of 0 in each of them.
"""

import numpy as np

from train.objectives.rollout_options import Baseline

EPSILON = 1e-4


def advantages(rewards_R: np.ndarray, group: int, baseline: Baseline) -> np.ndarray:
    """The advantage of each rollout, float32 (R,); rows i * group to (i + 1) * group - 1 are one group."""
    rewards = np.asarray(rewards_R, np.float64).reshape(-1, group)
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    if baseline == "group":
        centred = centred / (rewards.std(axis=1, ddof=1, keepdims=True) + EPSILON)
    elif baseline == "leave_one_out":
        centred = centred * group / (group - 1)
    return centred.reshape(-1).astype(np.float32)


def differs(rewards_R: np.ndarray, group: int) -> np.ndarray:
    """Whether the rewards of each rollout's group are not all equal, bool (R,): DAPO's filter (Yu et al. 2025)."""
    rewards = np.asarray(rewards_R).reshape(-1, group)
    return np.repeat((rewards != rewards[:, :1]).any(axis=1), group)


def overlong_penalty(lengths_R: np.ndarray, longest: int, buffer: int) -> np.ndarray:
    """The reward of long answers: Yu et al. 2025, "DAPO", equation 13, from 0 to -1; float64 (R,).

    Args:
      lengths_R: the tokens of the answers.
      longest: the most tokens of an answer.
      buffer: how many of the last of these are too many; 0 for no penalty.
    """
    if buffer == 0:
        return np.zeros(len(lengths_R))
    return np.clip((longest - buffer - np.asarray(lengths_R, np.float64)) / buffer, -1.0, 0.0)
