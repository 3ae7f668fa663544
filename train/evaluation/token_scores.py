"""The loss of every token, and whether the model ranks it first; for evaluations that look at single tokens."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.layout import Layout
from model.transformer import stream, unembedding
from model.vocabulary.cross_entropy import count_chunks, cross_entropy
from train.objectives.interface import Batch
from train.parallel.table import MeshLayout, replicated


@functools.lru_cache(maxsize=8)
def compile_token_scores(
    model: ModelConfig, layout: MeshLayout
) -> Callable[[Any, dict[str, jax.Array]], tuple[jax.Array, jax.Array]]:
    """The jitted `token_scores`, its results whole on every device."""
    return jax.jit(
        lambda params, batch: token_scores(model, params, batch, layout), out_shardings=replicated(layout.mesh)
    )


def token_scores(model: ModelConfig, params: Any, batch: Batch, layout: Layout) -> tuple[jax.Array, jax.Array]:
    """-log p of every target in nats, float32 (B, T), and whether its logit is the first largest, bool (B, T).

    Args:
      model: the model's options.
      params: its parameters.
      batch: tokens and targets (B, T); segment_ids and positions if the model needs them.
      layout: the sharding of activations. A device makes a part of the logits at a time.
    """
    output = stream(
        model,
        params,
        batch["tokens"],
        positions_BT=batch.get("positions"),
        segment_ids_BT=batch.get("segment_ids"),
        consecutive_positions=True,
        layout=layout,
    )
    head, targets_BT = unembedding(model, params), batch["targets"]

    def scores(stream_BTD: jax.Array, targets_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_BTV = head.logits(stream_BTD, layout)
        return cross_entropy(logits_BTV, targets_BT)[0], jnp.argmax(logits_BTV, axis=-1) == targets_BT

    rows, length = targets_BT.shape
    wanted = count_chunks(-(-rows // layout.ways("batch")) * length, model.vocab_size)
    chunks = next(count for count in range(min(wanted, length), length + 1) if length % count == 0)
    if chunks == 1:
        return scores(output.stream_BTD, targets_BT)

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(rows, chunks, length // chunks, *x.shape[2:]), 1, 0)

    results = jax.lax.map(lambda part: scores(*part), (split(output.stream_BTD), split(targets_BT)))
    nll_BT, hits_BT = (jnp.moveaxis(x, 0, 1).reshape(rows, length) for x in results)
    return nll_BT, hits_BT
