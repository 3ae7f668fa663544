"""Next-token prediction: cross-entropy (model/vocabulary/cross_entropy.py), the z-loss, the losses of the model.

The z-loss pulls log Z towards 0: Chowdhery et al. 2022, "PaLM", section 5.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.layout import Layout
from model.transformer import forward
from model.vocabulary.cross_entropy import cross_entropy
from train.objectives.interface import Batch, Sums


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextToken:
    """The cross-entropy of every token given those before it, and the losses that the model adds.

    Attributes:
      z_loss: the coefficient of log^2 Z, a term that is minimised but not reported.
    """

    z_loss: float = 0.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        if self.z_loss < 0:
            yield "z_loss", f"must be 0 or more, got {self.z_loss}"

    @property
    def fields(self) -> tuple[str, ...]:
        """See `Objective`."""
        return "tokens", "targets", "loss_mask"

    def tokens(self, batch: Batch) -> jax.Array:
        """The number of counted targets."""
        return jnp.sum(batch["loss_mask"] > 0, dtype=jnp.int32)

    def weight(self, batch: Batch) -> jax.Array:
        """The sum of the targets' weights."""
        return jnp.sum(batch["loss_mask"])

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
        output = forward(
            model,
            params,
            batch["tokens"],
            positions_BT=batch.get("positions"),
            segment_ids_BT=batch.get("segment_ids"),
            dropout_key=dropout_key,
            counted_BT=batch["loss_mask"],
            targets_BT=batch["targets"],
            layout=layout,
            taps=taps,
        )
        nll, minimised = token_losses(output.logits_BTV, batch["targets"], batch["loss_mask"], self.z_loss)
        minimised = with_model_losses(minimised, output.losses)
        return minimised, Sums(nll, output.losses, output.measured, output.taps)


def token_losses(
    logits_BTV: jax.Array, targets_BT: jax.Array, loss_mask_BT: jax.Array, z_loss: float
) -> tuple[jax.Array, jax.Array]:
    """Sums over the tokens that count.

    Args:
      logits_BTV, targets_BT: as for `cross_entropy`.
      loss_mask_BT: the weight of each token, 0 for padding and across documents.
      z_loss: the coefficient of log^2 Z.

    Returns:
      The sum of weighted cross-entropies, and that sum plus the z-loss: what is reported and what is minimised.
    """
    nll_BT, log_z_BT = cross_entropy(logits_BTV, targets_BT)
    nll = jnp.sum(nll_BT * loss_mask_BT)
    if z_loss == 0:
        return nll, nll
    return nll, nll + z_loss * jnp.sum(jnp.square(log_z_BT) * loss_mask_BT)


def with_model_losses(objective: jax.Array, losses: Mapping[str, jax.Array]) -> jax.Array:
    """What is minimised, with the losses that the model itself has; all are sums over the tokens that count."""
    for loss in losses.values():
        objective = objective + loss
    return objective


def token_nll(model: ModelConfig, params: Any, batch: Mapping[str, jax.Array], layout: Layout) -> jax.Array:
    """-log p of every target in nats, float32 (B, T), without dropout: what every evaluation is a sum of.

    Args:
      model: the model's options.
      params: its parameters.
      batch: tokens and targets (B, T); segment_ids and positions where documents do not see each other.
      layout: how activations lie on devices.
    """
    output = forward(
        model,
        params,
        batch["tokens"],
        positions_BT=batch.get("positions"),
        segment_ids_BT=batch.get("segment_ids"),
        layout=layout,
    )
    return cross_entropy(output.logits_BTV, batch["targets"])[0]
