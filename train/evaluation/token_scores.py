"""The loss of every token, and whether the model ranks it first; for evaluations that look at single tokens."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from model.config import ModelConfig
from train.objectives.next_token import statistics_of_tokens
from train.parallel.table import MeshLayout, replicated


@functools.lru_cache(maxsize=8)
def compile_token_scores(
    model: ModelConfig, layout: MeshLayout
) -> Callable[[Any, dict[str, jax.Array]], tuple[jax.Array, jax.Array]]:
    """The jitted scores of a batch, whole on every device.

    The function takes parameters and a batch (tokens and targets (B, T); segment_ids and positions if the model needs
    them). It returns -log p of every target in nats, float32 (B, T), and whether its logit is the first largest, bool
    (B, T).
    """

    def scores(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        statistics = statistics_of_tokens(model, params, batch, layout)
        return statistics.nll_BT, statistics.rank_BT == 0

    return jax.jit(scores, out_shardings=replicated(layout.mesh))
