"""The validation of an objective whose batches are rows of preferences: its loss and its numbers, every row once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from model.layout import Layout
from train.alignment.reference import fields_of_reference
from train.data.preferences.batches import PreferenceEvaluation
from train.data.preferences.option import Preferences
from train.experiment import Experiment
from train.objectives.interface import Batch
from train.parallel import feed
from train.parallel.table import layout_of, replicated
from train.state import Held, StateConfig, TrainState, evaluation_params, state_shardings

if TYPE_CHECKING:
    from train.hooks.interface import Session

Step = Callable[[Any, Batch], dict[str, jax.Array]]


class RowsValidation:
    """The validation split, read once per call."""

    def __init__(self, session: Session, logps: np.ndarray | None, texts: tuple[str, ...]) -> None:
        """Opens the split.

        Args:
          session: the session of the run.
          logps: the log-probabilities of the reference of all rows, (rows, 2); None for an objective without one.
          texts: the prefixes of the two texts of a row.
        """
        experiment = session.experiment
        assert isinstance(experiment.data, Preferences)
        self._data, self._logps, self._texts, self._alive = experiment.data, logps, texts, session.alive
        self._placement = session.layout.placement(("batch", "sequence"))
        rows = feed.local_rows(self._placement, self._data.batch_size)
        limit = experiment.evaluation.max_batches
        self._batches = PreferenceEvaluation(
            session.dataset, self._data, "validation", limit, rows, experiment.objective.fields
        )
        self._rows = rows
        self.step = compile_rows_step(experiment, session.mesh)

    def __call__(self, state: Held) -> dict[str, float]:
        """The means over all rows of the loss and of the objective's numbers."""
        outputs = []
        for n, batch in enumerate(self._batches):
            outputs.append(self.step(state, feed.to_devices(self._with_reference(batch, n), *self._where)))
            self._alive()
        fetched = jax.device_get(outputs)
        self._alive()
        rows = math.fsum(float(sums["rows"]) for sums in fetched)
        names = [name for name in fetched[0] if name != "rows"]
        return {name: math.fsum(float(sums[name]) for sums in fetched) / rows for name in names}

    @property
    def _where(self) -> tuple[Any, int, bool]:
        return self._placement, self._data.batch_size, False

    def _with_reference(self, batch: dict[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
        if self._logps is None:
            return batch
        numbers = self._batches.numbers(n)
        known = np.stack([self._logps[max(numbers[row], 0)] for row in self._rows])
        return batch | fields_of_reference(known, self._texts, self._data.sequence_length)


def rows_step(experiment: Experiment, layout: Layout, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
    """The sums of the loss and of the numbers of the objective over a batch, and the number of its rows."""
    params = evaluation_params(experiment.optimizer, state)
    _, sums = experiment.objective.loss(experiment.model, params, batch, dropout_key=None, layout=layout)
    return {"loss": sums.loss, **sums.numbers, "rows": experiment.objective.weight(batch).astype(jnp.float32)}


def compile_rows_step(experiment: Experiment, mesh: jax.sharding.Mesh) -> Step:
    """The jitted `rows_step` on a mesh."""
    shardings = state_shardings(StateConfig.of(experiment), mesh, experiment.sharding)
    layout = layout_of(mesh, experiment.sharding)
    step = functools.partial(rows_step, experiment, layout)
    placement = layout.placement(("batch", "sequence"))
    return jax.jit(step, in_shardings=(shardings, placement), out_shardings=replicated(mesh))
