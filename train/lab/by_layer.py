"""The arrays of parameters, or of their gradients, layer by layer: some parameters stack many layers in one array."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from model.config import ModelConfig
from model.layers import group_layers, stacked_layers
from model.parameters.specs import Spec


class Part(NamedTuple):
    """A parameter in one layer, or one outside of the layers.

    Attributes:
      name: the dotted name of the parameter.
      layer: the number of the layer; None outside of the layers.
      values: its part of the array.
      plain_name: its name without that of its stack of layers: the same for any grouping of the layers.
    """

    name: str
    layer: int | None
    values: Any
    plain_name: str

    @property
    def place(self) -> str:
        """The layer in words; the part of the model outside of the layers."""
        head = self.name.partition(".")[0]
        if self.layer is None:
            return head
        return f"layer {self.layer}" if head == "blocks" else f"{head} {self.layer}"


def by_layer(model: ModelConfig, specs: Mapping[str, Spec], arrays: Mapping[str, Any]) -> Iterator[Part]:
    """Yields every parameter of every layer.

    Args:
      model: the options of the model.
      specs: the specs of its parameters, by dotted name.
      arrays: one for each parameter, by dotted name; of a stacked parameter the first axis counts layers.
    """
    for name, values in arrays.items():
        if specs[name].axes[:1] != ("layer",):
            yield Part(name, None, values, name)
            continue
        plain = plain_name(model, name)
        for layer, row in zip(stacked_layers(model.layers, name, len(values)), values, strict=True):
            yield Part(name, layer, row, plain)


def plain_name(model: ModelConfig, name: str) -> str:
    """The dotted name of a parameter without that of its stack: `blocks.mixer.query` for `blocks.0.mixer.query`."""
    part, _, below = name.partition(".")
    has_stacks = sum(len(group.pattern) for group in group_layers(model.layers)) > 1
    return f"blocks.{below.partition('.')[2]}" if part == "blocks" and has_stacks else name
