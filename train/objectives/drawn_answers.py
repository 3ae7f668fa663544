"""The parts that losses of drawn answers share: the policy's log-probabilities, the clipped loss, means over tokens.

Dropout is off in training: the policy that draws the answers has none, and the gradient is to be of that policy. The
losses of the model, its taps and the numbers to report are means over the tokens that count, whatever the mean of loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.layout import Layout
from model.output import Output
from model.transformer import unembedding
from model.vocabulary.cross_entropy import nll
from train.objectives.interface import Batch, Sums
from train.objectives.next_token import stream_of_targets, with_model_losses
from train.objectives.tap_sums import LOG_Z, tap_sums


class DrawnAnswers:
    """An objective on answers that its preparation draws: the base of several."""

    @property
    def fields(self) -> tuple[str, ...]:
        """See `Objective`: the prompts; the preparation adds the rest."""
        return ("tokens",)

    def tokens(self, batch: Batch) -> jax.Array:
        """The number of drawn tokens."""
        return jnp.sum(batch["drawn"] > 0, dtype=jnp.int32)


class Policy(NamedTuple):
    """The policy on a batch of answers.

    Attributes:
      output: the output of the model.
      logprob_BT: log p of the targets at a temperature, float32.
      log_z_BT: the log-normaliser of their logits.
    """

    output: Output
    logprob_BT: jax.Array
    log_z_BT: jax.Array


def run_policy(
    model: ModelConfig, params: Any, batch: Batch, temperature: float, layout: Layout, taps: tuple[str, ...]
) -> Policy:
    """Runs the model on the tokens of a batch, without dropout."""
    output = stream_of_targets(model, params, batch, dropout_key=None, layout=layout, taps=taps)
    head = at_temperature(unembedding(model, params), temperature)
    nll_BT, log_z_BT = nll(output.stream_BTD, head, batch["targets"], layout)
    return Policy(output, -nll_BT, log_z_BT)


def at_temperature(head: Any, temperature: float) -> Any:
    """The map to logits that are divided by a temperature."""
    return dataclasses.replace(head, transform=dataclasses.replace(head.transform, temperature=temperature))


def clipped_terms(logprob_BT: jax.Array, batch: Batch, low: float, high: float) -> dict[str, jax.Array]:
    """The clipped policy loss of each token: Schulman et al. 2017, "Proximal Policy Optimization", equation 7.

    With `importance` in the batch the loss is multiplied by it: the weight min(p_old / p_sampler, cap) of a token that
    another policy drew (Hilton et al. 2021, "Batch size-invariance for policy optimization", the decoupled objective,
    with the truncated weights of Espeholt et al. 2018, "IMPALA", section 4.1).

    Args:
      logprob_BT: log p of the targets.
      batch: `old`, log p_old; `first` (B, 1), 1 where p_old is p; `advantages` (B, 1) or (B, T).
      low, high: the ratio is clipped to 1 - low .. 1 + high.

    Returns:
      `loss`, `ratio` and `clip_share`, each (B, T).
    """
    old_BT = jnp.where(batch["first"] > 0, jax.lax.stop_gradient(logprob_BT), batch["old"])
    ratio_BT = jnp.exp(logprob_BT - old_BT)
    plain_BT = ratio_BT * batch["advantages"]
    clipped_BT = jnp.clip(ratio_BT, 1 - low, 1 + high) * batch["advantages"]
    shares_BT = (clipped_BT < plain_BT).astype(jnp.float32)
    loss_BT = -jnp.minimum(plain_BT, clipped_BT) * batch.get("importance", 1.0)
    return {"loss": loss_BT, "ratio": ratio_BT, "clip_share": shares_BT}


def sums_of_tokens(
    policy: Policy,
    terms: Mapping[str, jax.Array],
    counted_BT: jax.Array,
    rows_BT: jax.Array,
    weight: jax.Array,
    taps: tuple[str, ...],
) -> tuple[jax.Array, Sums]:
    """The minimised sum and the sums to report.

    Args:
      policy: the result of `run_policy`.
      terms: the `loss` of each token, and numbers to report, each (B, T).
      counted_BT: 1 for each token that counts.
      rows_BT: the weight of its loss.
      weight: the divisor of sums.
      taps: the requested taps.
    """
    loss_BT = terms["loss"]
    loss = jnp.sum(jnp.where(rows_BT > 0, loss_BT, 0) * rows_BT)
    tokens = jnp.maximum(jnp.sum(counted_BT), 1)

    def mean(total: jax.Array) -> jax.Array:
        """A sum over tokens that becomes their mean when it is divided by the weight; exact for a sum of ones."""
        return total / tokens * weight

    counted = {name: jnp.where(counted_BT > 0, x, 0) * counted_BT for name, x in terms.items() if name != "loss"}
    numbers = {name: mean(jnp.sum(x)) for name, x in counted.items()}
    sums, maxima = tap_sums(policy.output.taps, counted_BT)
    if LOG_Z in taps:
        sums[LOG_Z] = jnp.sum(jax.lax.stop_gradient(policy.log_z_BT) * counted_BT)
    losses, sums = ({name: mean(x) for name, x in each.items()} for each in (policy.output.losses, sums))
    loss_and_numbers: tuple[jax.Array, dict[str, jax.Array]] = jax.lax.stop_gradient((loss, numbers))
    report, reported = loss_and_numbers
    minimised = with_model_losses(loss, losses)
    return minimised, Sums(report, losses, policy.output.measurements, sums, maxima, reported)
