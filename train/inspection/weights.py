"""The parameters of one layer, from arrays that stack many layers."""

from typing import Any

import jax

from model.config import ModelConfig
from model.layers import by_stack, group_layers


def of_layer(config: ModelConfig, params: Any, number: int) -> Any:
    """The parameters of a layer, a tree of arrays without the axis of layers: `["mixer"]["output"]` and so on."""
    groups = group_layers(config.layers)
    stacks = by_stack(params["blocks"], groups)
    for group in groups:
        for index, name in enumerate(group.stack_names):
            numbers = group.layer_numbers(index)
            if number in numbers:
                row = numbers.index(number)
                return jax.tree.map(lambda x, row=row: x[row], stacks[name])
    raise AssertionError(f"no layer {number}")
