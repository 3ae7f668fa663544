"""GRPO: a policy gradient with advantages within groups, a clipped ratio, and the distance to a reference.

For a token o_t of rollout i, with the policy p at the temperature of sampling:
  ratio_t = p(o_t) / p_old(o_t)
  k3_t    = q - log q - 1 with q = p_reference(o_t) / p(o_t)
  loss_t  = -min(ratio_t A_i, clip(ratio_t, 1 - clip, 1 + clip_high) A_i) + kl k3_t
(Shao et al. 2024, "DeepSeekMath", equations 3 and 4.) Their mean over tokens is one of
  sequence   of each rollout's tokens, then of rollouts      GRPO
  token      of all tokens                                   Yu et al. 2025, "DAPO", equation 8
  constant   a sum, over rollouts times the most tokens      Liu et al. 2025, Dr. GRPO

At the first update of a rollout p_old is p: the ratio is exactly 1, by construction. The sampler and this forward pass
are different programs; `logprob_difference` is the largest difference of their log-probabilities at each rollout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.layout import Layout
from train.objectives.drawn_answers import DrawnAnswers, clipped_terms, run_policy, sums_of_tokens
from train.objectives.interface import Batch, Preparation, Sums
from train.objectives.rollout_options import Baseline, Reward, RewardOf, Rollouts

if TYPE_CHECKING:
    from train.hooks.interface import Session


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPO(DrawnAnswers):
    """See the module.

    Attributes:
      reward: the reward of an answer: of a function, or of a reward model's run.
      rollouts: how answers are drawn.
      baseline: the advantages (train/alignment/advantages.py): GRPO, Dr. GRPO or RLOO.
      mean: the mean over tokens.
      clip, clip_high: the bounds of the ratio; clip_high None for the same as clip (DAPO: 0.2 and 0.28).
      kl: the coefficient of the distance to the reference, the parameters of training.init_from; 0 for none.
      filter_equal: whether groups with equal rewards are left out of the mean (DAPO's filter, without drawing others).
      overlong: the tokens before the limit over which a reward falls by up to 1 (DAPO, equation 13); 0 for none.
    """

    reward: Reward | RewardOf = Reward()
    rollouts: Rollouts = Rollouts()
    baseline: Baseline = "group"
    mean: Literal["sequence", "token", "constant"] = "sequence"
    clip: float = 0.2
    clip_high: float | None = None
    kl: float = 0.0
    filter_equal: bool = False
    overlong: int = 0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not 0 < self.clip < 1:
            yield "clip", f"must be between 0 and 1, got {self.clip}"
        if self.clip_high is not None and self.clip_high <= 0:
            yield "clip_high", f"must be above 0, or None, got {self.clip_high}"
        if self.kl < 0:
            yield "kl", f"must be 0 or more, got {self.kl}"
        if not 0 <= self.overlong <= self.rollouts.max_tokens:
            yield "overlong", f"must be from 0 to rollouts.max_tokens={self.rollouts.max_tokens}, got {self.overlong}"

    def preparation(self, session: Session) -> Preparation:
        """The rollouts, their rewards and their log-probabilities. Raises UserError for data without prompts."""
        from train.alignment.rollouts import GRPOPreparation

        return GRPOPreparation(self, session)

    def weight(self, batch: Batch) -> jax.Array:
        """The divisor of the mean over tokens."""
        if self.mean == "token":
            return jnp.sum(batch["weights"])
        rows = jnp.sum(jnp.any(batch["weights"] > 0, axis=1), dtype=jnp.float32)
        return rows if self.mean == "sequence" else rows * self.rollouts.max_tokens

    def loss(
        self,
        model: ModelConfig,
        params: Any,
        batch: Batch,
        *,
        dropout_key: jax.Array | None,
        layout: Layout,
        taps: tuple[str, ...] = (),
    ) -> tuple[jax.Array, Sums]:
        """See `Objective`; `dropout_key` is not used, for the policy that drew the answers has no dropout."""
        policy = run_policy(model, params, batch, self.rollouts.temperature, layout, taps)
        counted_BT, rows_BT = batch["weights"], batch["weights"]
        if self.mean == "sequence":
            rows_BT = counted_BT / jnp.maximum(jnp.sum(counted_BT, axis=1, keepdims=True), 1)
        terms = self.terms(policy.logprob_BT, batch)
        return sums_of_tokens(policy, terms, counted_BT, rows_BT, self.weight(batch), taps)

    def terms(self, logprob_BT: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """The loss of each token, and numbers to report, each (B, T), from the log-probabilities of the policy.

        Args:
          logprob_BT: log p of the targets.
          batch: the fields of `clipped_terms`; `reference` if kl is not 0.
        """
        found = clipped_terms(logprob_BT, batch, self.clip, self.clip if self.clip_high is None else self.clip_high)
        if self.kl:
            log_q_BT = batch["reference"] - logprob_BT
            found["kl"] = jnp.exp(log_q_BT) - log_q_BT - 1
            found["loss"] = found["loss"] + self.kl * found["kl"]
        return found
