"""Losses of pairs of answers, of which the first is preferred, and of answers with a label.

Notation, for the answer y_w that is preferred to y_l after the prompt x, the policy pi and its reference rho:

    l_w = log pi(y_w | x)      d_w = log pi(y_w | x) - log rho(y_w | x)      h = d_w - d_l      |y| the tokens of y

and likewise l_l, d_l. Log-probabilities are sums over the tokens of the answer, in nats; that of rho is computed before
training (train/alignment/reference.py). Losses are means over pairs. Reported: `chosen_logp`, `rejected_logp` (means of
l_w and l_l), `margin` (what the loss compares, with its factor), `accuracy` (the share of pairs with a margin above 0),
and with a reference `reference_kl`, the mean of -d over all answers: an estimate of KL(rho || pi) where rho wrote them.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.layout import Layout
from train.data.preferences.option import LABEL_FIELDS
from train.files.paths import IS_PATH
from train.objectives.answers import (
    PAIR,
    Answers,
    log_probabilities,
    number_of_rows,
    real_rows,
    sums_of_rows,
)
from train.objectives.interface import Batch, Sums

# The fields that a preparation adds: the log-probabilities of the reference, at all places of a row.
OF_REFERENCE = tuple(f"{text}reference" for text in PAIR)
ANSWER_AND_OTHER = ("", "other_")


class Pairs(NamedTuple):
    """Log-probabilities of pairs, each (P,): l_w, l_l; d_w and d_l (0 without a reference); |y_w| and |y_l|."""

    chosen: jax.Array
    rejected: jax.Array
    chosen_change: jax.Array
    rejected_change: jax.Array
    chosen_length: jax.Array
    rejected_length: jax.Array


class PairObjective:
    """A loss of pairs; a subclass has `of_pairs`."""

    has_reference = False
    texts = PAIR  # the prefixes of the batch fields of a row's two texts

    @property
    def fields(self) -> tuple[str, ...]:
        """See `Objective`."""
        return tuple(f"{text}{name}" for text in PAIR for name in ("tokens", "targets", "weights"))

    def tokens(self, batch: Batch) -> jax.Array:
        """The number of tokens of all answers."""
        return sum((jnp.sum(batch[f"{text}weights"] > 0, dtype=jnp.int32) for text in PAIR), jnp.int32(0))

    def weight(self, batch: Batch) -> jax.Array:
        """The number of pairs."""
        return jnp.sum(real_rows(batch))

    def of_pairs(self, pairs: Pairs) -> tuple[jax.Array, jax.Array]:
        """The loss and the margin of each pair, (P,)."""
        raise NotImplementedError

    def validation(self, session: Any) -> Any:
        """The means over the validation split of the loss and of all numbers, as a function of the state."""
        from train.alignment.rows_validation import RowsValidation

        return RowsValidation(session, None, self.texts)

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
        """See `Objective`."""
        answers = log_probabilities(model, params, batch, self.texts, dropout_key=dropout_key, layout=layout, taps=taps)
        pairs = pairs_of(answers, batch if self.has_reference else None)
        loss, margin = self.of_pairs(pairs)
        numbers = {
            "chosen_logp": pairs.chosen,
            "rejected_logp": pairs.rejected,
            "margin": margin,
            "accuracy": (margin > 0).astype(jnp.float32),
        }
        if self.has_reference:
            numbers["reference_kl"] = -(pairs.chosen_change + pairs.rejected_change) / 2
        return sums_of_rows(answers, loss, numbers, real_rows(batch), taps)


def pairs_of(answers: Answers, batch: Batch | None) -> Pairs:
    """The log-probabilities of pairs; `batch` has those of the reference, or is None."""
    chosen, rejected = answers.logp[:, 0], answers.logp[:, 1]
    if batch is None:
        changes = jnp.zeros_like(chosen), jnp.zeros_like(rejected)
    else:
        before = [number_of_rows(batch, name) for name in OF_REFERENCE]
        changes = chosen - before[0], rejected - before[1]
    return Pairs(chosen, rejected, *changes, answers.length[:, 0], answers.length[:, 1])


class ReferenceObjective(PairObjective):
    """A loss of pairs relative to a reference.

    `reference` is a run folder, or None for the parameters with which the run begins (training.init_from).
    """

    has_reference = True
    reference: str | None = None

    def preparation(self, session: Any) -> Any:
        """See train/objectives/interface.py: the log-probabilities of the reference, computed before training."""
        from train.alignment.reference import ReferencePreparation

        return ReferencePreparation(session, self.reference)

    def validation(self, session: Any) -> Any:
        """See `PairObjective`."""
        from train.alignment.reference import noted_logps
        from train.alignment.rows_validation import RowsValidation

        return RowsValidation(session, noted_logps(session, "validation"), self.texts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPO(ReferenceObjective):
    """Rafailov et al. 2023, "Direct Preference Optimization", equation 7: L = -log sigmoid(beta h).

    With label smoothing e, for pairs of which a share e is the wrong way round (cDPO; Mitchell 2023, "A note on DPO
    with noisy preferences & relationship to IPO"):

        L = -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)

    The loss may lower the probability of both answers, most where they share much of their text (Pal et al. 2024,
    "Smaug: Fixing Failure Modes of Preference Optimisation with DPO-Positive"). The term -likelihood l_w / |y_w| holds
    that of the preferred one up (Pang et al. 2024, "Iterative Reasoning Preference Optimization", equation 1).

    Attributes:
      beta: how strongly the policy is held to the reference.
      label_smoothing: e, from 0 to below 1/2.
      likelihood: the coefficient of that term.
      reference: a run folder; None for the parameters with which the run begins.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    likelihood: float = 0.0
    reference: str | None = dataclasses.field(default=None, metadata=IS_PATH)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _above_zero(beta=self.beta)
        if not 0 <= self.label_smoothing < 0.5:
            yield "label_smoothing", f"expected a share from 0 to below 0.5, got {self.label_smoothing}"
        if self.likelihood < 0:
            yield "likelihood", f"must be 0 or more, got {self.likelihood}"

    def of_pairs(self, pairs: Pairs) -> tuple[jax.Array, jax.Array]:
        """See `PairObjective`."""
        margin = self.beta * (pairs.chosen_change - pairs.rejected_change)
        loss = -(1 - self.label_smoothing) * jax.nn.log_sigmoid(margin)
        if self.label_smoothing:
            loss = loss - self.label_smoothing * jax.nn.log_sigmoid(-margin)
        if self.likelihood:
            loss = loss - self.likelihood * mean_logps(pairs)[0]
        return loss, margin


@dataclasses.dataclass(frozen=True, kw_only=True)
class IPO(ReferenceObjective):
    """Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning from Human Preferences", equation 17.

    L = (h - 1 / (2 tau))^2. With `average`, d_w and d_l are divided by |y_w| and |y_l|, as in the code of `trl`, which
    keeps the target from depending on the length of answers.

    Attributes:
      tau: how strongly the policy is held to the reference.
      average: whether log-probabilities are means over the tokens of an answer, and not sums as in the paper.
      reference: a run folder; None for the parameters with which the run begins.
    """

    tau: float = 0.1
    average: bool = False
    reference: str | None = dataclasses.field(default=None, metadata=IS_PATH)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _above_zero(tau=self.tau)

    def of_pairs(self, pairs: Pairs) -> tuple[jax.Array, jax.Array]:
        """See `PairObjective`."""
        changes = pairs.chosen_change, pairs.rejected_change
        if self.average:
            changes = changes[0] / _at_least_one(pairs.chosen_length), changes[1] / _at_least_one(pairs.rejected_length)
        margin = changes[0] - changes[1]
        return jnp.square(margin - 1 / (2 * self.tau)), margin


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimPO(PairObjective):
    """Meng et al. 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward", equation 6.

    L = -log sigmoid(beta l_w / |y_w| - beta l_l / |y_l| - gamma); there is no reference.

    Attributes:
      beta: the factor on mean log-probabilities.
      gamma: the margin by which the preferred answer should be ahead.
    """

    beta: float = 2.0
    gamma: float = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _above_zero(beta=self.beta)
        if self.gamma < 0:
            yield "gamma", f"must be 0 or more, got {self.gamma}"

    def of_pairs(self, pairs: Pairs) -> tuple[jax.Array, jax.Array]:
        """See `PairObjective`."""
        chosen, rejected = mean_logps(pairs)
        margin = self.beta * (chosen - rejected)
        return -jax.nn.log_sigmoid(margin - self.gamma), margin


@dataclasses.dataclass(frozen=True, kw_only=True)
class ORPO(PairObjective):
    """Hong et al. 2024, "ORPO: Monolithic Preference Optimization without Reference Model", equations 6 and 7.

    L = -m_w - weight log sigmoid(log odds(m_w) - log odds(m_l)), m = l / |y|, odds(m) = e^m / (1 - e^m): the
    cross-entropy of the preferred answer, and a term on the ratio of odds. There is no reference.

    Attributes:
      weight_of_odds: the paper's lambda.
    """

    weight_of_odds: float = 0.1

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _above_zero(weight_of_odds=self.weight_of_odds)

    def of_pairs(self, pairs: Pairs) -> tuple[jax.Array, jax.Array]:
        """See `PairObjective`."""
        chosen, rejected = mean_logps(pairs)
        margin = log_odds(chosen) - log_odds(rejected)
        return -chosen - self.weight_of_odds * jax.nn.log_sigmoid(margin), margin


def mean_logps(pairs: Pairs) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities per token, l_w / |y_w| and l_l / |y_l|."""
    return pairs.chosen / _at_least_one(pairs.chosen_length), pairs.rejected / _at_least_one(pairs.rejected_length)


def log_odds(logp: jax.Array) -> jax.Array:
    """log(p / (1 - p)) from log p; a log p above -1e-6 counts as that: its odds have no finite slope in float32."""
    bounded = jnp.minimum(logp, -1e-6)
    is_small = bounded < -0.6931472  # log(1 - e^x), by the form that keeps its digits
    # The inner selects keep each branch away from where its slope is infinite or 0/0.
    small = jnp.log1p(-jnp.exp(jnp.where(is_small, bounded, -1.0)))
    large = jnp.log(-jnp.expm1(jnp.where(is_small, -0.5, bounded)))
    return bounded - jnp.where(is_small, small, large)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KTO(ReferenceObjective):
    """Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization", equation 8.

    For one answer y with the change d = log pi(y | x) - log rho(y | x), and z = max(0, the mean of d over a batch of
    prompts with answers to other prompts), which has no gradient:

        L = desirable (1 - sigmoid(beta (d - z)))        for a desirable answer
        L = undesirable (1 - sigmoid(beta (z - d)))      for an undesirable one

    The data are labels: data=Preferences(form="labels"). `margin` is beta (d - z), with the sign of the label. As z is
    of a batch, training.gradient_accumulation is 1.

    Attributes:
      beta: how strongly the policy is held to the reference.
      desirable, undesirable: the weights of the two kinds of answers (the paper's lambdas).
      reference: a run folder; None for the parameters with which the run begins.
    """

    beta: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0
    reference: str | None = dataclasses.field(default=None, metadata=IS_PATH)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _above_zero(beta=self.beta, desirable=self.desirable, undesirable=self.undesirable)

    texts = ANSWER_AND_OTHER
    one_micro_batch = True

    @property
    def fields(self) -> tuple[str, ...]:
        """See `Objective`."""
        return LABEL_FIELDS

    def tokens(self, batch: Batch) -> jax.Array:
        """The number of tokens of all answers."""
        return jnp.sum(batch["weights"] > 0, dtype=jnp.int32)

    def weight(self, batch: Batch) -> jax.Array:
        """The number of answers."""
        return jnp.sum(real_rows(batch, ""))

    def of_answers(self, change: jax.Array, label: jax.Array, divergence: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The loss and the margin of each answer, (P,), from d, whether it is desirable (1 or 0), and z."""
        ahead = self.beta * (change - divergence)
        margin = jnp.where(label > 0, ahead, -ahead)
        return jnp.where(label > 0, self.desirable, self.undesirable) * jax.nn.sigmoid(-margin), margin

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
        """See `Objective`."""
        answers = log_probabilities(model, params, batch, self.texts, dropout_key=dropout_key, layout=layout, taps=taps)
        real, has_other, label = real_rows(batch, ""), real_rows(batch, "other_"), number_of_rows(batch, "label")
        changes = answers.logp - jnp.stack([number_of_rows(batch, f"{text}reference") for text in self.texts], 1)
        mean = jnp.sum(changes[:, 1] * has_other) / jnp.maximum(jnp.sum(has_other), 1.0)
        divergence = jax.lax.stop_gradient(jnp.maximum(mean, 0.0))
        loss, margin = self.of_answers(changes[:, 0], label, divergence)
        numbers = {
            "answer_logp": answers.logp[:, 0],
            "margin": margin,
            "accuracy": (margin > 0).astype(jnp.float32),
            "divergence": jnp.broadcast_to(divergence, label.shape),
            "reference_kl": -changes[:, 0],
        }
        return sums_of_rows(answers, loss, numbers, real, taps)


def _at_least_one(length: jax.Array) -> jax.Array:
    """The lengths of answers; 1 for padding, which has none and does not count."""
    return jnp.maximum(length, 1.0)


def _above_zero(**fields: float) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if not value > 0:
            yield name, f"must be above 0, got {value}"
