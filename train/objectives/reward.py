"""The reward model: scores of answers that say which of two people prefer.

Bradley and Terry 1952: the chance that an answer with the score r_w is preferred to one with the score r_l is
sigmoid(r_w - r_l). The loss is its negative logarithm (Ouyang et al. 2022, "Training language models to follow
instructions with human feedback", equation 1), with the margin m of Touvron et al. 2023 ("Llama 2", equation 2), and a
term that centres scores, as only their differences are learned (Eisenstein et al. 2023, "Helping or Herding?"):

    L = -log sigmoid(r_w - r_l - m) + centring (r_w + r_l)^2

A score is the first number of the model's score head (model/vocabulary/score_head.py) at the last token of the answer.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.layout import Layout
from train.objectives.answers import PAIR, number_of_rows, real_rows, scores_of_answers, sums_of_rows
from train.objectives.interface import Batch, Sums


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModel:
    """See the module. Reported: `chosen_score`, `rejected_score`, `margin` (r_w - r_l) and `accuracy`.

    Attributes:
      margins: whether m is the margin of each pair in the data; 0 otherwise.
      centring: the coefficient of the term that centres scores.
    """

    margins: bool = False
    centring: float = 0.0

    reads_scores = True
    texts = PAIR

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.centring < 0:
            yield "centring", f"must be 0 or more, got {self.centring}"

    @property
    def fields(self) -> tuple[str, ...]:
        """See `Objective`."""
        of_texts = tuple(f"{text}{name}" for text in PAIR for name in ("tokens", "targets", "weights"))
        return (*of_texts, "margin") if self.margins else of_texts

    def tokens(self, batch: Batch) -> jax.Array:
        """The number of tokens of all answers."""
        return sum((jnp.sum(batch[f"{text}weights"] > 0, dtype=jnp.int32) for text in PAIR), jnp.int32(0))

    def weight(self, batch: Batch) -> jax.Array:
        """The number of pairs."""
        return jnp.sum(real_rows(batch))

    def validation(self, session: Any) -> Any:
        """The means over the validation split of the loss and of all numbers, as a function of the state."""
        from train.alignment.rows_validation import RowsValidation

        return RowsValidation(session, None, self.texts)

    def of_scores(self, chosen: jax.Array, rejected: jax.Array, margin: jax.Array | float) -> jax.Array:
        """The loss of each pair, (P,)."""
        loss = -jax.nn.log_sigmoid(chosen - rejected - margin)
        return loss + self.centring * jnp.square(chosen + rejected) if self.centring else loss

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
        answers = scores_of_answers(model, params, batch, PAIR, dropout_key=dropout_key, layout=layout, taps=taps)
        chosen, rejected = answers.logp[:, 0], answers.logp[:, 1]
        loss = self.of_scores(chosen, rejected, number_of_rows(batch, "margin") if self.margins else 0.0)
        numbers = {
            "chosen_score": chosen,
            "rejected_score": rejected,
            "margin": chosen - rejected,
            "accuracy": (chosen > rejected).astype(jnp.float32),
        }
        return sums_of_rows(answers, loss, numbers, real_rows(batch), taps)
