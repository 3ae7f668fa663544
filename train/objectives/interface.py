"""What a training step asks of an objective: the batch fields that it wants, and its loss.

An objective is an option, `Experiment.objective`. The step adds up its sums, divides them by its weight, differentiates
them and reports them; it knows nothing else of it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax

from model.config import ModelConfig
from model.layout import Layout

Batch = Mapping[str, jax.Array]


class Sums(NamedTuple):
    """Sums over the tokens of a batch that count, which are those of its parts added up.

    Attributes:
      loss: what is reported as the loss.
      losses: the model's own losses, by name.
      measured: what the model measured, by stack of layers and name.
      taps: the taps that were asked for, each a sum over tokens.
    """

    loss: jax.Array
    losses: dict[str, jax.Array]
    measured: dict[str, dict[str, jax.Array]]
    taps: dict[str, jax.Array]


class Objective(Protocol):
    """What a run minimises."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a batch that it reads, besides those that tell documents apart."""

    def tokens(self, batch: Batch) -> jax.Array:
        """How many tokens of a batch count, int32. A batch without any has no loss, and its step is skipped."""

    def weight(self, batch: Batch) -> jax.Array:
        """The number that sums over a batch are divided by, float32."""

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
        """The sum over a batch of what is minimised, and the sums that are reported.

        Args:
          model: the model's options.
          params: its parameters, trained or not.
          batch: `fields`, each (B, T); segment_ids and positions where documents do not see each other.
          dropout_key: of this batch; None for no dropout.
          layout: how activations lie on devices.
          taps: sums over tokens to take along, by the names of the model's taps.
        """
