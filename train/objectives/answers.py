"""Log-probabilities and scores of answers: the part that all preference losses share.

A batch has two texts a row, each (P, T). They are interleaved to (2P, T) for one forward pass, text 2 r + k being text
k of row r, so that no row moves to another device. Logits are made in chunks (model/vocabulary/cross_entropy.py).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.layout import Layout
from model.output import Output
from model.transformer import scores, stream, unembedding
from model.vocabulary.cross_entropy import nll
from train.objectives.interface import Batch, Sums
from train.objectives.next_token import with_model_losses
from train.objectives.tap_sums import LOG_Z, tap_sums

PAIR = ("chosen_", "rejected_")


class Answers(NamedTuple):
    """The answers of a batch, one column per text of a row.

    Attributes:
      logp: log p(answer | prompt), the sum over its tokens in nats, float32 (P, texts).
      length: the number of its tokens, float32 (P, texts).
      output: the output of the model on all texts, for its own losses.
      weights_BT: which tokens count, (texts P, T).
      log_z: the sum over counted tokens of the log-normaliser.
    """

    logp: jax.Array
    length: jax.Array
    output: Output
    weights_BT: jax.Array
    log_z: jax.Array


def interleaved(batch: Batch, field: str, texts: tuple[str, ...], layout: Layout) -> jax.Array:
    """A field of all texts as one array (texts P, T); `texts` are the prefixes of its names in the batch."""
    arrays = [batch[f"{text}{field}"] for text in texts]
    x_BT = arrays[0] if len(arrays) == 1 else jnp.stack(arrays, axis=1).reshape(-1, arrays[0].shape[1])
    return layout.constrain(x_BT, ("batch", "sequence"))


def stream_of_texts(
    model: ModelConfig,
    params: Any,
    batch: Batch,
    texts: tuple[str, ...],
    *,
    dropout_key: jax.Array | None,
    layout: Layout,
    taps: tuple[str, ...] = (),
) -> tuple[Output, jax.Array, jax.Array]:
    """Runs the model on all texts; returns its output, the targets and the weights, (texts P, T)."""
    tokens_BT, targets_BT, weights_BT = (interleaved(batch, name, texts, layout) for name in _FIELDS)
    segments: dict[str, Any] = {}
    if model.reads_lengths:  # padding is no part of a text whose length is read
        places = jnp.arange(tokens_BT.shape[1])
        ids_BT = (places <= last_tokens(weights_BT)[:, None]).astype(jnp.int32)
        segments = {"segment_ids_BT": ids_BT, "positions_BT": jnp.broadcast_to(places, tokens_BT.shape)}
    output = stream(
        model,
        params,
        tokens_BT,
        **segments,
        consecutive_positions=True,
        dropout_key=dropout_key,
        weights_BT=weights_BT,
        targets_BT=targets_BT,
        layout=layout,
        taps=[name for name in taps if name != LOG_Z],
    )
    return output, targets_BT, weights_BT


_FIELDS = ("tokens", "targets", "weights")


def last_tokens(weights_BT: jax.Array) -> jax.Array:
    """The place of the last token of each text, int32 (B,): it is the target of the last place that counts."""
    places = jnp.arange(weights_BT.shape[1], dtype=jnp.int32)
    return jnp.max(jnp.where(weights_BT > 0, places + 1, 0), axis=1)


def log_probabilities(
    model: ModelConfig,
    params: Any,
    batch: Batch,
    texts: tuple[str, ...] = PAIR,
    *,
    dropout_key: jax.Array | None,
    layout: Layout,
    taps: tuple[str, ...] = (),
) -> Answers:
    """The log-probabilities of all answers of a batch; the arguments are those of `Objective.loss`."""
    output, targets_BT, weights_BT = stream_of_texts(
        model, params, batch, texts, dropout_key=dropout_key, layout=layout, taps=taps
    )
    nll_BT, log_z_BT = nll(output.stream_BTD, unembedding(model, params), targets_BT, layout)
    logp = jnp.sum(jnp.where(weights_BT > 0, -nll_BT, 0.0), axis=1)
    length = jnp.sum(weights_BT > 0, axis=1, dtype=jnp.float32)
    log_z = jax.lax.stop_gradient(jnp.sum(log_z_BT * weights_BT))
    by_row = (-1, len(texts))
    return Answers(logp.reshape(by_row), length.reshape(by_row), output, weights_BT, log_z)


def scores_of_answers(
    model: ModelConfig,
    params: Any,
    batch: Batch,
    texts: tuple[str, ...] = PAIR,
    *,
    dropout_key: jax.Array | None,
    layout: Layout,
    taps: tuple[str, ...] = (),
) -> Answers:
    """The same with the score of each answer as `logp`: the first number of the head at the answer's last token."""
    output, _, weights_BT = stream_of_texts(
        model, params, batch, texts, dropout_key=dropout_key, layout=layout, taps=taps
    )
    scores_BT = scores(model, params, output.stream_BTD, layout=layout)[..., 0]
    is_last_BT = jnp.arange(scores_BT.shape[1]) == last_tokens(weights_BT)[:, None]
    score = jnp.sum(jnp.where(is_last_BT, scores_BT, 0.0), axis=1)
    length = jnp.sum(weights_BT > 0, axis=1, dtype=jnp.float32)
    by_row = (-1, len(texts))
    return Answers(score.reshape(by_row), length.reshape(by_row), output, weights_BT, jnp.zeros(()))


def number_of_rows(batch: Batch, field: str) -> jax.Array:
    """A number that stands at all places of a row, (P,)."""
    return jnp.max(batch[field], axis=1)


def real_rows(batch: Batch, text: str = PAIR[0]) -> jax.Array:
    """1.0 for a row with an answer, 0.0 for padding, float32 (P,)."""
    return jnp.any(batch[f"{text}weights"] > 0, axis=1).astype(jnp.float32)


def sums_of_rows(
    answers: Answers,
    loss: jax.Array,
    numbers: Mapping[str, jax.Array],
    real: jax.Array,
    taps: tuple[str, ...],
) -> tuple[jax.Array, Sums]:
    """The minimised sum and the sums to report.

    Args:
      answers: the answers of the batch.
      loss: the loss of each row, (P,).
      numbers: the numbers to report of each row, (P,).
      real: 1.0 for each row that counts, (P,).
      taps: the requested taps.
    """
    total = jnp.sum(loss * real)
    sums, maxima = tap_sums(answers.output.taps, answers.weights_BT)
    if LOG_Z in taps:
        sums[LOG_Z] = answers.log_z
    # Sums over tokens, of the model's own losses and of taps, become means: the divisor of sums is the number of rows.
    per_row = jnp.sum(real) / jnp.maximum(jnp.sum(answers.length * real[:, None]), 1.0)
    losses, sums = ({name: x * per_row for name, x in each.items()} for each in (answers.output.losses, sums))
    reported = {name: jax.lax.stop_gradient(jnp.sum(values * real)) for name, values in numbers.items()}
    report = jax.lax.stop_gradient(total)
    minimised = with_model_losses(total, losses)
    return minimised, Sums(report, losses, answers.output.measurements, sums, maxima, reported)
