"""What is minimised: next-token cross-entropy (model/vocabulary/cross_entropy.py) and what comes with it.

The z-loss pulls log Z towards 0: Chowdhery et al. 2022, "PaLM", section 5.
"""

from collections.abc import Mapping
from typing import Any

import jax

from model.config import ModelConfig
from model.layout import Layout
from model.transformer import stream, unembedding
from model.vocabulary.cross_entropy import nll


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
    output = stream(
        model,
        params,
        batch["tokens"],
        positions_BT=batch.get("positions"),
        segment_ids_BT=batch.get("segment_ids"),
        layout=layout,
    )
    return nll(output.stream_BTD, unembedding(model, params), batch["targets"], layout)[0]
