"""Masked tokens: the cross-entropy of hidden tokens given the tokens on both sides of them.

Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", section 3.1,
task 1: of the chosen tokens 80% are replaced by the mask, 10% by a random token, and 10% stay. Which tokens are chosen
is drawn anew for every batch, as in Liu et al. 2019, "RoBERTa", section 4.1 ("dynamic masking"), each with the same
probability; in spans as in Joshi et al. 2020, "SpanBERT", section 3.1, where the tokens of a span are replaced alike.

The draw is a function of the batch, `training.seed` and the number of the step alone, and of the tokens of the whole
batch: a resumed run, micro-batches and another mesh hide the same tokens.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.layout import Layout
from model.transformer import unembedding
from model.vocabulary.cross_entropy import total_nll
from train.objectives.drawn import DrawnObjective
from train.objectives.interface import Batch, Sums
from train.objectives.next_token import log_z_of_targets, stream_of_batch, with_model_losses
from train.objectives.tap_sums import LOG_Z, tap_sums


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spans:
    """Tokens are chosen in spans, whose lengths have a geometric distribution that is cut off.

    Attributes:
      stop: the probability with which a span ends after each of its tokens (SpanBERT: 0.2).
      longest: the length after which every span ends (SpanBERT: 10, and a mean of 3.8 words that is redrawn).
    """

    stop: float = 0.2
    longest: int = 10

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not 0 < self.stop < 1:
            yield "stop", f"must be above 0 and below 1, got {self.stop}; use spans=None for single tokens"
        if not 2 <= self.longest <= 64:
            yield "longest", f"must be from 2 to 64, got {self.longest}; use spans=None for single tokens"

    def reaches(self) -> list[float]:
        """Returns the probability that a span has more than j tokens, for j from 0."""
        return [(1 - self.stop) ** j for j in range(self.longest)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedTokens(DrawnObjective):
    """See the module. The loss is the mean over hidden tokens.

    Attributes:
      rate: the share of the tokens of text that are chosen. Marks that begin documents never are.
      spans: chooses tokens in spans; None for single ones.
      mask_share, random_share: the shares of chosen tokens that become the mask and a random token; the others stay.
      mask_id: the id of the mask, a token of the tokenizer; None for an id of its own, the last of `model.vocab_size`,
        which is then one more than the tokenizer has.
    """

    rate: float = 0.15
    spans: Spans | None = None
    mask_share: float = 0.8
    random_share: float = 0.1
    mask_id: int | None = None

    direction = "Bidirectional"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not 0 < self.rate < 1:
            yield "rate", f"must be above 0 and below 1, got {self.rate}"
        for name in ("mask_share", "random_share"):
            if not 0 <= getattr(self, name) <= 1:
                yield name, f"must be from 0 to 1, got {getattr(self, name)}"
        if self.mask_share + self.random_share > 1 + 1e-9:
            yield "random_share", f"{self.random_share} and mask_share={self.mask_share} are more than all; lower one"
        if self.mask_id is not None and self.mask_id < 0:
            yield "mask_id", f"must be 0 or more, or None for an id of its own, got {self.mask_id}"

    @property
    def own_ids(self) -> int:
        """The ids of the model's vocabulary that the tokenizer does not have."""
        return 1 if self.mask_id is None else 0

    def mask_token(self, vocab_size: int) -> int:
        """The id of the mask in a model with a vocabulary of this size."""
        return vocab_size - 1 if self.mask_id is None else self.mask_id

    @property
    def fields(self) -> tuple[str, ...]:
        """See `Objective`."""
        return "tokens", "weights", "text"

    def weight(self, batch: Batch) -> jax.Array:
        """The number of hidden tokens."""
        return jnp.sum(batch["hidden"])

    def drawn(self, model: ModelConfig, batch: Batch, key: jax.Array) -> Batch:
        """See `DrawnObjective`: adds `read`, the tokens that the model reads, and `hidden`, 1.0 where one is chosen."""
        tokens_BT, mask = batch["tokens"], self.mask_token(model.vocab_size)
        chosen_key, random_key = jax.random.split(key)
        chosen_BT, draw_BT = self._chosen(tokens_BT.shape, chosen_key)
        hidden_BT = chosen_BT & (batch["text"] > 0)
        # One of the other ids than the mask, all alike.
        other_BT = jax.random.randint(random_key, tokens_BT.shape, 0, model.vocab_size - 1, tokens_BT.dtype)
        other_BT = other_BT + (other_BT >= mask)
        replaced_BT = jnp.where(draw_BT < self.mask_share, mask, other_BT)
        replaced_BT = jnp.where(draw_BT < self.mask_share + self.random_share, replaced_BT, tokens_BT)
        read_BT = jnp.where(hidden_BT, replaced_BT, tokens_BT).astype(tokens_BT.dtype)
        return {**batch, "read": read_BT, "hidden": hidden_BT.astype(jnp.float32)}

    def _chosen(self, shape: tuple[int, ...], key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns which tokens are chosen, and a number from 0 to 1 for each that says what replaces it.

        Spans may begin before the row, so that its first tokens are chosen as often as the others; where spans overlap,
        the later one says what replaces a token.
        """
        reaches = [1.0] if self.spans is None else self.spans.reaches()
        longest = len(reaches)
        start_key, length_key, draw_key = jax.random.split(key, 3)
        wide = (shape[0], shape[1] + longest - 1)
        starts = jax.random.bernoulli(start_key, start_rate(self.rate, reaches), wide)
        length_draw, draw = jax.random.uniform(length_key, wide), jax.random.uniform(draw_key, wide)
        chosen_BT, draw_BT = jnp.zeros(shape, bool), jnp.zeros(shape, jnp.float32)
        for j in reversed(range(longest)):  # spans that began j tokens before
            began = slice(longest - 1 - j, longest - 1 - j + shape[1])
            covers_BT = starts[:, began] & (length_draw[:, began] < reaches[j])
            chosen_BT, draw_BT = chosen_BT | covers_BT, jnp.where(covers_BT, draw[:, began], draw_BT)
        return chosen_BT, draw_BT

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
        weights, seen = batch["hidden"], {**batch, "tokens": batch["read"]}
        kept = [name for name in taps if name != LOG_Z]
        output = stream_of_batch(model, params, seen, layout, dropout_key=dropout_key, weights_BT=weights, taps=kept)
        head, targets = unembedding(model, params), batch["tokens"]
        reported, minimised = total_nll(output.stream_BTD, head, targets, weights, layout)
        sums, maxima = tap_sums(output.taps, weights)
        if LOG_Z in taps:
            sums[LOG_Z] = log_z_of_targets(output.stream_BTD, head, {"targets": targets, "weights": weights}, layout)
        minimised = with_model_losses(minimised, output.losses)
        return minimised, Sums(reported, output.losses, output.measurements, sums, maxima)


def start_rate(rate: float, reaches: list[float]) -> float:
    """Returns how often spans must begin so that a token lies in one with probability `rate`.

    A token stays visible if no span that began j tokens before reaches it: prod_j (1 - q reaches[j]) = 1 - rate. The
    left side falls with q, which is found by halving.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle, visible = (low + high) / 2, 1.0
        for reach in reaches:
            visible *= 1 - middle * reach
        low, high = (middle, high) if visible > 1 - rate else (low, middle)
    return (low + high) / 2
