"""Routers: which experts a token uses, and the weight of each.

Shazeer et al. 2017, "Outrageously Large Neural Networks", equations 3 to 5 (a softmax over the chosen experts); Fedus
et al. 2021, "Switch Transformers", equation 2 (a softmax over all experts). Sigmoid scores and a bias on the choice
alone: DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", equations 12 to 16. Groups of experts: DeepSeek-AI 2024,
"DeepSeek-V2", section 2.2.2. Everything here is float32, whatever the dtype of activations. R is the number of experts
of a token.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp

from model.norms import LayerNorm, RMSNorm
from model.parameters.mixed_precision import lookup


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """A token first chooses groups of experts, then experts in these groups: with one group on a node, few nodes.

    Attributes:
      count: the number of groups, which have equal sizes and consist of neighbouring experts.
      top_k: the number of groups that a token chooses.
      score: the score of a group: the "max" of its experts' scores (DeepSeek-V2), or the sum of the two best scores
        ("top2_sum", DeepSeek-V3).
    """

    count: int
    top_k: int
    score: Literal["max", "top2_sum"] = "max"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.count < 2:
            yield "count", f"must be at least 2, got {self.count}; use groups=None for no groups"
        elif not 1 <= self.top_k < self.count:
            yield "top_k", f"must be at least 1 and below count={self.count}, got {self.top_k}"

    def problems_with(self, num_experts: int, experts_per_token: int) -> Iterator[tuple[str, str]]:
        """Yields the fields that clash with the number of experts, or of experts of a token."""
        if any(True for _ in self.problems()):
            return
        size = num_experts // self.count
        if num_experts % self.count:
            yield "count", f"{self.count} groups do not divide num_experts={num_experts}"
        elif size < 2:
            yield "count", f"{self.count} groups hold one expert each, so groups have no effect; use fewer"
        elif size * self.top_k < experts_per_token:
            yield (
                "top_k",
                f"{self.top_k} groups of {size} experts have fewer than a token's {experts_per_token}; use more groups",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Router:
    """The fields of all routers.

    Attributes:
      renormalize: whether the weights of the chosen experts sum to 1 (before `scale`).
      bias: whether the router's logits have a learned bias.
      scale: a factor on all weights.
      groups: limits the choice to a few groups of experts, or None.
      norm: the kind of a norm of the router's input, or None (Gemma 4).
      logit_scale: a factor on the router's logits (Gemma 4: width^(-1/2)).
      expert_scale: whether each expert has a trained factor on its weights, which starts at 1; it multiplies weights
        after they are renormalised (Gemma 4).
    """

    renormalize: bool = True
    bias: bool = False
    scale: float = 1.0
    groups: Groups | None = None
    norm: LayerNorm | RMSNorm | None = None
    logit_scale: float = 1.0
    expert_scale: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for name in ("scale", "logit_scale"):
            if getattr(self, name) <= 0:
                yield name, f"must be above 0, got {getattr(self, name)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftmaxRouter(_Router):
    """Scores by a softmax over all experts.

    Renormalised weights equal a softmax over the chosen experts alone, so that softmax before choosing (Mixtral, Qwen)
    and after it (GPT-OSS) are one function. Without `renormalize` they sum to less than 1 (OLMoE, DeepSeek-V2).
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigmoidRouter(_Router):
    """Scores by a sigmoid for each expert; DeepSeek-V3 renormalises the weights, Llama 4 does not."""


@dataclasses.dataclass(frozen=True)
class Routing:
    """The experts of every token and their weights.

    Attributes:
      probabilities_BTE: the scores of all experts as shares that sum to 1, for losses and statistics.
      chosen_BTR: the chosen experts, best first (int32).
      weight_BTR: the weight of each chosen expert.
    """

    probabilities_BTE: jax.Array
    chosen_BTR: jax.Array
    weight_BTR: jax.Array


def route(
    option: SoftmaxRouter | SigmoidRouter,
    logits_BTE: jax.Array,
    top_k: int,
    load_bias_E: jax.Array | None = None,
    expert_scale_E: jax.Array | None = None,
) -> Routing:
    """Chooses experts by their scores, and computes their weights.

    Args:
      option: the router.
      logits_BTE: the router's logits, float32.
      top_k: R, the number of experts of a token.
      load_bias_E: a bias on the scores for the choice, not on the weights; None for no bias.
      expert_scale_E: the trained factor on the weights of each expert, or None.
    """
    softmax = isinstance(option, SoftmaxRouter)
    score_BTE = jax.nn.softmax(logits_BTE) if softmax else jax.nn.sigmoid(logits_BTE)
    choice_BTE = score_BTE if load_bias_E is None else score_BTE + load_bias_E
    if option.groups is not None:
        choice_BTE = jnp.where(_in_top_groups(option.groups, choice_BTE), choice_BTE, -jnp.inf)
    _, chosen_BTR = jax.lax.top_k(jax.lax.stop_gradient(choice_BTE), top_k)
    if softmax and option.renormalize:
        weight_BTR = jax.nn.softmax(jnp.take_along_axis(logits_BTE, chosen_BTR, axis=-1))
    else:
        weight_BTR = jnp.take_along_axis(score_BTE, chosen_BTR, axis=-1)
        if option.renormalize:
            weight_BTR = weight_BTR / (jnp.sum(weight_BTR, axis=-1, keepdims=True) + 1e-20)
    if expert_scale_E is not None:
        weight_BTR = weight_BTR * lookup(expert_scale_E, chosen_BTR, weight_BTR.dtype)
    share_BTE = score_BTE if softmax else score_BTE / (jnp.sum(score_BTE, axis=-1, keepdims=True) + 1e-20)
    return Routing(share_BTE, chosen_BTR, weight_BTR if option.scale == 1 else weight_BTR * option.scale)


def _in_top_groups(groups: Groups, choice_BTE: jax.Array) -> jax.Array:
    """Returns a mask of the experts in the groups that a token chooses, (B, T, E)."""
    lead, experts = choice_BTE.shape[:-1], choice_BTE.shape[-1]
    grouped = jax.lax.stop_gradient(choice_BTE).reshape(*lead, groups.count, experts // groups.count)
    best, _ = jax.lax.top_k(grouped, 1 if groups.score == "max" else 2)
    _, chosen = jax.lax.top_k(jnp.sum(best, axis=-1), groups.top_k)
    is_chosen = jnp.any(jax.nn.one_hot(chosen, groups.count, dtype=bool), axis=-2)
    return jnp.repeat(is_chosen, experts // groups.count, axis=-1)
