"""The interface of an objective: the batch fields that it reads, and its loss.

An objective is an option, `Experiment.objective`. The training step adds up its sums, divides them by its weight,
differentiates them and reports them; it knows nothing else about the objective.

An objective whose batches need a model has a method `preparation(session) -> Preparation | None` too, of the `Session`
of train/hooks/interface.py; the loop calls the preparation before each step (train/hooks/preparing.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from model.layout import Layout

if TYPE_CHECKING:
    from train.state import TrainState

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


def refuse_preparation(objective: Any, command: str) -> None:
    """Raises UserError for an objective whose batches are completed while it trains; `command` has only their data."""
    if hasattr(objective, "preparation"):
        raise UserError(
            f"{command}: the objective {type(objective).__name__} completes its batches with a model while it trains, "
            "and here are only their data; its run's report and metrics.jsonl show what it did"
        )


class Preparation:
    """Completes batches with arrays that need a model: rollouts, a reference's log-probabilities, a teacher's logits.

    A subclass overrides `__call__`, and of the rest what it needs. Its time is that of the activity "preparation" of
    time_spent.jsonl, apart from what it spends on others inside `session.spent_on("rollout")`.

    Attributes:
      in_stages: whether it works for a model whose layers are split over the stages of a pipeline.
      in_processes: whether it works in several processes. Then all of them call it together, its arrays are global
        ones, and it saves nothing.
    """

    in_stages = False
    in_processes = False

    def __call__(self, state: TrainState, batch: Batch, n: int) -> Batch:
        """The completed batch, on the mesh in the placement of ("batch", "sequence"): arrays (B, T, ...) or (B, 1).

        Args:
          state: the state before the step. The step reuses its memory, so a preparation must not keep it.
          batch: batch n with the `fields` of the objective, on the mesh.
          n: the number of the batch: the updates before it.
        """
        raise NotImplementedError

    def scalars(self) -> Mapping[str, float | jax.Array]:
        """Numbers of the batch just made, for its line of metrics.jsonl: the same in a resumed run, so no seconds."""
        return {}

    def saved(self) -> Mapping[str, np.ndarray]:
        """The arrays that it carries from one step to the next (float32, 32-bit integers or bytes).

        They are saved with each checkpoint.
        """
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes what `saved` returned after the step of the checkpoint from which a run continues."""

    def close(self) -> None:
        """Called once, when the session ends, after an error too."""
