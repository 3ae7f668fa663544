"""The preparation of a batch of PPO: rollouts with a reward, a value, an advantage and a return for each token."""

from __future__ import annotations

from typing import Any

import numpy as np

from train.alignment.gae import advantages_and_returns, token_rewards, whitened
from train.alignment.rollouts import RolloutPreparation, Scored
from train.objectives.ppo import PPO


class PPOPreparation(RolloutPreparation[PPO]):
    """See the module.

    Further numbers: `kl`, the mean of log p - log p_reference over tokens; `value_explained`, 1 less the share of the
    variance of returns that the values leave.
    """

    names = (*RolloutPreparation.names, "kl", "value_explained")

    def _credit(self, arrays: dict[str, np.ndarray], rewards: np.ndarray, own: Scored) -> dict[str, Any]:
        objective, drawn, counts = self._objective, arrays["drawn"], arrays["weights"] > 0
        log_ratio = own.logprobs - arrays["reference"] if objective.kl else None
        of_tokens = token_rewards(rewards, drawn, log_ratio, objective.kl)
        gains, returns = advantages_and_returns(of_tokens, own.values, drawn, objective.gamma, objective.gae_lambda)
        if objective.whiten:
            gains = whitened(gains, arrays["weights"])
        arrays |= {"advantages": gains.astype(np.float32), "returns": returns.astype(np.float32), "values": own.values}
        variance = returns[counts].var() if counts.any() else 0.0
        left = (returns - own.values)[counts].var() / variance if variance > 0 else 1.0
        return {"kl": 0.0 if log_ratio is None else log_ratio[drawn > 0].mean(), "value_explained": 1 - left}
