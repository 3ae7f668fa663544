"""Prefix language modelling: the tokens after a prefix that is seen from both sides.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (T5), sections
3.2.1 and 3.3.1: a text is split at a random point, the first part is the prefix, and the loss is that of the second.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.layout import Layout
from train.objectives.drawn import DrawnObjective
from train.objectives.interface import Batch, Sums
from train.objectives.next_token import NextToken


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixTokens(DrawnObjective):
    """See the module. The prefix of a document with n tokens in a row has 1 to n of them, each number alike."""

    direction = "PrefixLM"

    @property
    def fields(self) -> tuple[str, ...]:
        """See `Objective`."""
        return "tokens", "targets", "weights"

    def weight(self, batch: Batch) -> jax.Array:
        """The sum of the weights of targets after the prefixes."""
        return jnp.sum(batch["after"])

    def drawn(self, model: ModelConfig, batch: Batch, key: jax.Array) -> Batch:
        """See `DrawnObjective`: adds `prefix`, the length of each token's, and `after`, the weights behind it."""
        ids_BT, rows = batch["segment_ids"], jnp.arange(len(batch["segment_ids"]))[:, None]
        most = ids_BT.shape[1] + 1
        sizes_BS = jnp.zeros((len(ids_BT), most), jnp.int32).at[rows, ids_BT].add(1)
        drawn_BS = jax.random.uniform(key, sizes_BS.shape)
        lengths_BS = jnp.minimum(1 + (drawn_BS * sizes_BS).astype(jnp.int32), jnp.maximum(sizes_BS, 1))
        prefix_BT = lengths_BS[rows, ids_BT]
        # The target of the prefix's last token is the first that is not in it.
        after_BT = jnp.where(batch["positions"] >= prefix_BT - 1, batch["weights"], 0.0)
        return {**batch, "prefix": prefix_BT, "after": after_BT}

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
        seen = {**batch, "weights": batch["after"]}
        return NextToken().loss(model, params, seen, dropout_key=dropout_key, layout=layout, taps=taps)
