"""Objectives that draw a part of their batches inside the step: which tokens are hidden, or where a prefix ends.

The training step calls `drawn` once for the whole batch, before it is split into micro-batches, with a key of
`training.seed` and the number of the step. A validation calls it with keys of the numbers of its batches, so that every
evaluation of a run measures the same.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from train.objectives.interface import Batch

# Apart from the keys of dropout, which are folded with the numbers of micro-batches.
DRAW, VALIDATION = 0x6472, 0x7664


class DrawnObjective:
    """The interface of objectives that draw.

    Attributes:
      direction: the name of the `visibility` that the model must have.
    """

    direction: ClassVar[str]
    draws: ClassVar[bool] = True

    def drawn(self, model: ModelConfig, batch: Batch, key: jax.Array) -> Batch:
        """Returns the batch with further arrays (B, T), a pure function of its arguments."""
        raise NotImplementedError

    def tokens(self, batch: Batch) -> jax.Array:
        """The number of tokens that the batches count, of which the loss takes a part."""
        return jnp.sum(batch["weights"] > 0, dtype=jnp.int32)

    def validation(self, session: Any) -> Any:
        """The loss of the validation split as a function of the state."""
        from train.evaluation.validation import DrawnValidation

        return DrawnValidation(session)


def draws(objective: Any) -> bool:
    """Whether an objective has batches that are not complete before a step."""
    return getattr(objective, "draws", False)


def with_draws(objective: Any, model: ModelConfig, batch: Batch, key_data: jax.Array, step: jax.Array) -> Batch:
    """The batch of a step with what its objective draws; `key_data` is the key of the run's state."""
    if not draws(objective):
        return batch
    key = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(key_data), DRAW), step)
    complete: Batch = objective.drawn(model, batch, key)
    return complete


def refuse_draws(objective: Any, command: str) -> None:
    """Raises UserError for an objective that draws a part of its batches; `command` measures next tokens."""
    from model.errors import UserError

    if draws(objective):
        raise UserError(
            f"{command}: the objective {type(objective).__name__} draws a part of each batch inside the step, and this "
            "looks at the loss of each next token; metrics.jsonl and the report of the run show its loss"
        )
