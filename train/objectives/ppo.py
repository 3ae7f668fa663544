"""PPO: a clipped ratio with advantages of each token from a learned value, and a distance to a reference.

For a token o_t, with the policy p at the temperature of sampling, its value V_t before o_t is drawn, and the reward R
of the answer:
  r_t      = [o_t is the last] R - kl (log p(o_t) - log p_reference(o_t))     Ouyang et al. 2022, equation 2
  A_t, G_t = the advantage and the return by GAE                              train/alignment/gae.py
  ratio_t  = p(o_t) / p_old(o_t)
  policy_t = -min(ratio_t A_t, clip(ratio_t, 1 - clip, 1 + clip) A_t)         Schulman et al. 2017, equation 7
  V'_t     = clip(V_t, V_old_t - value_clip, V_old_t + value_clip)
  value_t  = max((V_t - G_t)^2, (V'_t - G_t)^2) / 2
  loss_t   = policy_t + value_weight value_t
and their mean over all tokens. The clipped value is that of the code of Schulman et al. 2017; Ouyang et al. 2022 have
it too (appendix C.4). At the first update of a rollout p_old is p and V_old is V: the ratio is exactly 1.

V is the first number of the model's score head at each token: policy and value share one forward pass, one state and
one checkpoint, and a model that starts from one without a head gets a drawn one. Ouyang et al. 2022 train a second
model as the value, which starts as the reward model; that takes twice the memory and time. The gradient of the value
reaches the shared layers: `value_weight` says how much.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.layout import Layout
from model.transformer import scores
from train.objectives.drawn_answers import DrawnAnswers, clipped_terms, run_policy, sums_of_tokens
from train.objectives.interface import Batch, Preparation, Sums
from train.objectives.rollout_options import Reward, RewardOf, Rollouts

if TYPE_CHECKING:
    from train.hooks.interface import Session


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPO(DrawnAnswers):
    """See the module. Reported: `ratio`, `clip_share`, `value_loss` and `value_clip_share`, and those of the rollout.

    Attributes:
      reward: the reward of an answer: of a function, or of a reward model's run.
      rollouts: how answers are drawn.
      clip: the ratio is clipped to 1 - clip .. 1 + clip.
      value_clip: the most that a value moves in the updates of one rollout; None for no such limit.
      value_weight: the weight of the value's loss.
      kl: the coefficient of the distance to the reference, the parameters of training.init_from; 0 for none.
      gamma: the discount of a token.
      gae_lambda: lambda.
      whiten: whether advantages get mean 0 and deviation 1 over the tokens of a rollout.
    """

    reward: Reward | RewardOf = Reward()
    rollouts: Rollouts = Rollouts()
    clip: float = 0.2
    value_clip: float | None = 0.2
    value_weight: float = 0.1
    kl: float = 0.05
    gamma: float = 1.0
    gae_lambda: float = 0.95
    whiten: bool = True

    reads_scores = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not 0 < self.clip < 1:
            yield "clip", f"must be between 0 and 1, got {self.clip}"
        if self.value_clip is not None and self.value_clip <= 0:
            yield "value_clip", f"must be above 0, or None for no limit, got {self.value_clip}"
        if self.value_weight <= 0:
            yield "value_weight", f"must be above 0, or the value would not learn; got {self.value_weight}"
        if self.kl < 0:
            yield "kl", f"must be 0 or more, got {self.kl}"
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                yield name, f"must be from 0 to 1, got {getattr(self, name)}"

    def preparation(self, session: Session) -> Preparation:
        """The rollouts with their advantages and returns. Raises UserError for data without prompts."""
        from train.alignment.ppo_rollouts import PPOPreparation

        return PPOPreparation(self, session)

    def weight(self, batch: Batch) -> jax.Array:
        """The number of tokens that count."""
        return jnp.sum(batch["weights"])

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
        value_BT = scores(model, params, policy.output.stream_BTD, layout=layout)[..., 0]
        terms, counted_BT = self.terms(policy.logprob_BT, value_BT, batch), batch["weights"]
        return sums_of_tokens(policy, terms, counted_BT, counted_BT, self.weight(batch), taps)

    def terms(self, logprob_BT: jax.Array, value_BT: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """The loss of each token, and numbers to report, each (B, T).

        Args:
          logprob_BT: log p of the targets.
          value_BT: the value before each is drawn.
          batch: the fields of `clipped_terms`; `values`, V_old, and `returns`, (B, T).
        """
        found = clipped_terms(logprob_BT, batch, self.clip, self.clip)
        return_BT = batch["returns"]
        error_BT = clipped_error_BT = jnp.square(value_BT - return_BT)
        if self.value_clip is not None:
            old_BT = jnp.where(batch["first"] > 0, jax.lax.stop_gradient(value_BT), batch["values"])
            near_BT = jnp.clip(value_BT, old_BT - self.value_clip, old_BT + self.value_clip)
            clipped_error_BT = jnp.square(near_BT - return_BT)
        found["value_loss"] = jnp.maximum(error_BT, clipped_error_BT) / 2
        found["value_clip_share"] = (clipped_error_BT > error_BT).astype(jnp.float32)
        found["loss"] = found["loss"] + self.value_weight * found["value_loss"]
        return found
