"""Next-token prediction: cross-entropy (model/vocabulary/cross_entropy.py), the z-loss, the losses of the model.

The z-loss pulls log Z towards 0: Chowdhery et al. 2022, "PaLM", section 5. Label smoothing: Szegedy et al. 2016,
"Rethinking the Inception Architecture for Computer Vision", section 7; Vaswani et al. 2017, section 5.4.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from model.attention.directions import refuse_without_decoding
from model.config import ModelConfig
from model.encoder.source import Source
from model.layout import Layout
from model.output import Output
from model.transformer import stream, unembedding
from model.vocabulary.cross_entropy import nll, total_nll
from model.vocabulary.token_statistics import TokenStatistics, token_statistics
from model.vocabulary.unembedding import Unembedding
from train.objectives.interface import Batch, Sums
from train.objectives.tap_sums import LOG_Z, tap_sums


class OfTargets:
    """A loss that is a mean over the counted targets of a batch."""

    @property
    def fields(self) -> tuple[str, ...]:
        """See `Objective`."""
        return "tokens", "targets", "weights"

    def tokens(self, batch: Batch) -> jax.Array:
        """The number of counted targets."""
        return jnp.sum(batch["weights"] > 0, dtype=jnp.int32)

    def weight(self, batch: Batch) -> jax.Array:
        """The sum of the targets' weights."""
        return jnp.sum(batch["weights"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextToken(OfTargets):
    """The cross-entropy of every token given those before it, and the losses that the model adds.

    Attributes:
      z_loss: the coefficient of log^2 Z, a term that is minimised but not reported.
      label_smoothing: e, so that the minimised loss is (1 - e) times the cross-entropy plus e times the mean over the
        vocabulary of -log p; the reported loss is the cross-entropy.
    """

    z_loss: float = 0.0
    label_smoothing: float = 0.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.z_loss < 0:
            yield "z_loss", f"must be 0 or more, got {self.z_loss}"
        if not 0 <= self.label_smoothing < 1:
            yield "label_smoothing", f"expected a share from 0 to below 1, got {self.label_smoothing}"

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
        output = stream_of_targets(model, params, batch, dropout_key=dropout_key, layout=layout, taps=taps)
        head, targets, weights = unembedding(model, params), batch["targets"], batch["weights"]
        reported, minimised = total_nll(output.stream_BTD, head, targets, weights, layout, self.z_loss)
        if self.label_smoothing:
            spread = _target_less_mean(output.stream_BTD, head, targets, layout)
            minimised = minimised + self.label_smoothing * jnp.sum(spread * weights)
        minimised = with_model_losses(minimised, output.losses)
        sums, maxima = tap_sums(output.taps, weights)
        if LOG_Z in taps:
            sums[LOG_Z] = log_z_of_targets(output.stream_BTD, head, batch, layout)
        return minimised, Sums(reported, output.losses, output.measurements, sums, maxima)


def stream_of_batch(
    model: ModelConfig, params: Any, batch: Mapping[str, jax.Array], layout: Layout, **options: Any
) -> Output:
    """Runs the model on the tokens of a batch, with the segments and positions that it has.

    `options` are further ones of `model.transformer.stream`; without them there is no dropout. With an encoder, the
    batch has a "source" too (and "source_segment_ids", "source_positions"), and a target's first token, at position 0,
    is the model's start token.
    """
    tokens_BT = batch["tokens"]
    if (encoder := model.encoder) is not None:
        options["source"] = Source(batch["source"], batch.get("source_positions"), batch.get("source_segment_ids"))
        positions_BT = batch.get("positions", jnp.arange(tokens_BT.shape[1]))
        tokens_BT = jnp.where(positions_BT == 0, encoder.start_token, tokens_BT)
    return stream(
        model,
        params,
        tokens_BT,
        positions_BT=batch.get("positions"),
        segment_ids_BT=batch.get("segment_ids"),
        consecutive_positions=True,
        prefix_BT=batch.get("prefix"),
        layout=layout,
        **options,
    )


def stream_of_targets(
    model: ModelConfig,
    params: Any,
    batch: Batch,
    *,
    dropout_key: jax.Array | None,
    layout: Layout,
    taps: tuple[str, ...],
) -> Output:
    """Runs the model for a loss of the batch's targets; arguments as for `Objective.loss`."""
    return stream_of_batch(
        model,
        params,
        batch,
        layout,
        dropout_key=dropout_key,
        weights_BT=batch["weights"],
        targets_BT=batch["targets"],
        taps=[name for name in taps if name != LOG_Z],
    )


def _target_less_mean(stream_BTD: jax.Array, head: Unembedding, targets_BT: jax.Array, layout: Layout) -> jax.Array:
    """The logit of each target less the mean logit of the vocabulary, float32 (B, T): logits have no soft-cap.

    It is what label smoothing adds to -log p(target), e times: (1 - e) (log Z - z) + e (log Z - mean) is log Z - z plus
    e (z - mean). Logits are linear in the stream, so that none but those of targets are made.
    """
    x_BTD = head.projected(stream_BTD, layout).astype(jnp.float32)
    w_VD = head.w_DV.T.astype(jnp.float32)
    z_BT = jnp.einsum("BTD,BTD->BT", x_BTD, w_VD[targets_BT] - jnp.mean(w_VD, axis=0))
    if head.bias_V is not None:
        bias_V = head.bias_V.astype(jnp.float32)
        z_BT = z_BT + bias_V[targets_BT] - jnp.mean(bias_V)
    return z_BT * head.transform.factor


def log_z_of_targets(stream_BTD: jax.Array, head: Unembedding, batch: Batch, layout: Layout) -> jax.Array:
    """The weighted sum of the log-normalisers over the counted targets, for the statistic `log_z`."""
    log_z_BT = jax.lax.stop_gradient(nll(stream_BTD, head, batch["targets"], layout)[1])
    return jnp.sum(log_z_BT * batch["weights"])


def with_model_losses(objective: jax.Array, losses: Mapping[str, jax.Array]) -> jax.Array:
    """Adds the model's own losses to the minimised sum; all are sums over the counted tokens."""
    for loss in losses.values():
        objective = objective + loss
    return objective


def token_nll(model: ModelConfig, params: Any, batch: Mapping[str, jax.Array], layout: Layout) -> jax.Array:
    """-log p of every target in nats, float32 (B, T), without dropout; every evaluation sums these.

    Args:
      model: the model's options.
      params: its parameters.
      batch: tokens and targets (B, T); segment_ids and positions if the model keeps documents apart.
      layout: the sharding of activations.
    """
    refuse_without_decoding(model, "the loss of next tokens")
    stream_BTD = stream_of_batch(model, params, batch, layout).stream_BTD
    return nll(stream_BTD, unembedding(model, params), batch["targets"], layout)[0]


def statistics_of_tokens(
    model: ModelConfig, params: Any, batch: Mapping[str, jax.Array], layout: Layout
) -> TokenStatistics:
    """-log p, the entropy, the confidence and the rank of every target; arguments as for `token_nll`."""
    refuse_without_decoding(model, "the loss of next tokens")
    stream_BTD = stream_of_batch(model, params, batch, layout).stream_BTD
    return token_statistics(stream_BTD, unembedding(model, params), batch["targets"], layout)
