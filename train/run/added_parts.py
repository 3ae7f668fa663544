"""Parts that a model has and a trained model lacks, so that a run with them can start from a run without them.

The field of such a part says so: `score_head: ScoreHead | None = dataclasses.field(default=None, metadata=ADDED_PART)`.
"""

import dataclasses
from typing import Any

import jax

from model.config import ModelConfig
from model.options.field_marks import marked_fields
from model.parameters.adapters import on_base
from model.transformer import Params, init, specs


def added_parts(before: ModelConfig, after: ModelConfig) -> tuple[str, ...]:
    """Returns the fields of the parts that one model lacks and another one has."""
    marked = (path for path in marked_fields(after, "parts") if "." not in path)
    return tuple(name for name in marked if getattr(before, name) is None and getattr(after, name) is not None)


def without_parts(config: ModelConfig, fields: tuple[str, ...]) -> ModelConfig:
    """Returns the model without some parts."""
    absent: dict[str, Any] = dict.fromkeys(fields)
    return dataclasses.replace(config, **absent)


def add_parts(config: ModelConfig, params: Params, key: jax.Array) -> Params:
    """Returns the parameters of a model from those of the model without some parts; new ones are drawn from the key.

    Under jit with out_shardings nothing but the new ones is drawn.
    """
    whole: Params = on_base(init(config, key), specs(config), params)
    return whole
