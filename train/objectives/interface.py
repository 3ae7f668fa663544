"""The interface of an objective: the batch fields that it reads, and its loss.

An objective is an option, `Experiment.objective`. The training step adds up its sums, divides them by its weight,
differentiates them and reports them; it knows nothing else about the objective.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax

from model.config import ModelConfig
from model.layout import Layout

Batch = Mapping[str, jax.Array]


class Sums(NamedTuple):
    """Sums over the counted tokens of a batch; the sums of micro-batches add up to those of the batch.

    Attributes:
      loss: the reported loss.
      losses: the model's own losses, by name.
      measurements: the model's measurements, by stack of layers and name.
      taps: for each requested tap, the sums over counted tokens, one per layer (train/objectives/tap_sums.py).
      maxima: for the taps that have one, the maximum over counted tokens; that of a batch is the largest of its parts.
      numbers: further numbers to report, by name: sums as `loss`, over the same weight.
    """

    loss: jax.Array
    losses: dict[str, jax.Array]
    measurements: dict[str, dict[str, jax.Array]]
    taps: dict[str, jax.Array]
    maxima: dict[str, jax.Array] = {}  # noqa: RUF012 - a field of a tuple, which nothing changes
    numbers: dict[str, jax.Array] = {}  # noqa: RUF012


class Objective(Protocol):
    """The function that a run minimises."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the batch fields that it reads, apart from segment_ids and positions."""

    def tokens(self, batch: Batch) -> jax.Array:
        """The number of counted tokens in a batch, int32. A batch without any has no loss; its step is skipped."""

    def weight(self, batch: Batch) -> jax.Array:
        """The divisor of sums over a batch, float32."""

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
        """The minimised sum over a batch, and the sums to report.

        Args:
          model: the model's options.
          params: its parameters, trained or not.
          batch: `fields`, each (B, T); segment_ids and positions too if the model keeps documents apart.
          dropout_key: the key of this batch; None for no dropout.
          layout: the sharding of activations.
          taps: names of the model's taps to sum over counted tokens; and "log_z", the log-normaliser of logits.
        """
