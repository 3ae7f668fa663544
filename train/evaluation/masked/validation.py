"""The validation of an objective that draws a part of its batches: its loss on the validation split.

Batch k of the split is drawn with a key of `training.seed` and k: all evaluations of a run hide the same tokens.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from model.errors import UserError
from model.layout import Layout
from train.experiment import Experiment
from train.objectives.drawn import VALIDATION
from train.objectives.interface import Batch
from train.parallel import feed
from train.parallel.table import layout_of, replicated
from train.state import Held, StateConfig, TrainState, evaluation_params, state_shardings

if TYPE_CHECKING:
    from train.hooks.interface import Session


class DrawnValidation:
    """The validation split, read once per call."""

    def __init__(self, session: Session) -> None:
        """Opens the split. Raises UserError where it has no token that counts."""
        experiment = session.experiment
        self._placement = session.layout.placement(("batch", "sequence"))
        self._size, self._alive = experiment.data.batch_size, session.alive
        rows = feed.local_rows(self._placement, self._size)
        limit = experiment.evaluation.max_batches
        self._batches = experiment.data.evaluation_batches(session.dataset, "validation", limit, rows)
        self.step = compile_drawn_step(experiment, session.mesh)

    def __call__(self, state: Held) -> dict[str, float]:
        """The mean of the loss over the drawn tokens, and its exponential."""
        outputs = []
        for number, batch in enumerate(self._batches):
            on_devices = feed.to_devices(batch, self._placement, self._size, True)
            outputs.append(self.step(state, on_devices, jnp.int32(number)))
            self._alive()
        fetched = jax.device_get(outputs)
        self._alive()
        loss, weight = (math.fsum(float(sums[name]) for sums in fetched) for name in ("loss", "weight"))
        if not weight:
            raise UserError(
                "the validation split has so few tokens that none of them is drawn; hold out more text: "
                "data.validation=HeldOutDocuments(), Tail(fraction=0.1) or SeparateText(path=...)"
            )
        mean = loss / weight
        return {"loss": mean, "perplexity": math.exp(min(mean, 709.0)), "tokens": weight}


def drawn_step(
    experiment: Experiment, layout: Layout, state: TrainState, batch: Batch, number: jax.Array
) -> dict[str, jax.Array]:
    """The sums of the loss and of the weights over batch `number` of a split."""
    objective: Any = experiment.objective
    model = experiment.model
    key = jax.random.fold_in(jax.random.key(experiment.training.seed), VALIDATION)
    complete = objective.drawn(model, batch, jax.random.fold_in(key, number))
    params = evaluation_params(experiment.optimizer, state)
    _, sums = objective.loss(model, params, complete, dropout_key=None, layout=layout)
    return {"loss": sums.loss, "weight": objective.weight(complete)}


def compile_drawn_step(experiment: Experiment, mesh: jax.sharding.Mesh) -> Any:
    """The jitted `drawn_step` on a mesh."""
    shardings = state_shardings(StateConfig.of(experiment), mesh, experiment.sharding)
    layout = layout_of(mesh, experiment.sharding)
    step = functools.partial(drawn_step, experiment, layout)
    placement = layout.placement(("batch", "sequence"))
    return jax.jit(step, in_shardings=(shardings, placement, replicated(mesh)), out_shardings=replicated(mesh))
