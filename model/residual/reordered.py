"""Reordered norms: x + N(F(x)).

OLMo et al. 2025, "2 OLMo 2 Furious", section 3.2.
"""

import dataclasses
from typing import ClassVar

import jax

from model.context import Context
from model.parameters.maker import ParameterMaker
from model.residual.scheme import LayerSettings, ResidualOption, ResidualStream, Sublayer, shard_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reordered(ResidualOption):
    """The output of a sublayer is normalised, its input is not."""

    additive: ClassVar[bool] = True
    normalizes_output: ClassVar[bool] = True

    def build(self, settings: LayerSettings, make: ParameterMaker, sublayers_before: jax.Array | int) -> ResidualStream:
        """Returns the module of one layer."""
        return ReorderedStream(settings, make)


class ReorderedStream(ResidualStream):
    """The norms of the outputs of sublayers."""

    def __init__(self, settings: LayerSettings, make: ParameterMaker) -> None:
        """Args: the settings of the model and the layer, the maker of parameters."""
        super().__init__(settings, make)
        self.make_norms("output_norm", make)

    def read(self, x_BTD: jax.Array, i: Sublayer) -> tuple[jax.Array, jax.Array]:
        """Returns x to the sublayer, and x as the stream."""
        return x_BTD, x_BTD

    def write(self, x_BTD: jax.Array, y_BTD: jax.Array, i: Sublayer, context: Context) -> jax.Array:
        """Returns x + N(y)."""
        return shard_stream(x_BTD + self.sublayer_output(self.part("output_norm", i)(y_BTD), i, context), context)
