"""Sandwich: x + M(F(N(x))).

Ding et al. 2021, "CogView: Mastering Text-to-Image Generation via Transformers", section 2.4; Gemma Team 2024,
"Gemma 2", section 2.
"""

import dataclasses

import jax

from model.context import Context
from model.parameters.maker import ParameterMaker
from model.residual.scheme import LayerSettings, ResidualOption, ResidualStream, Sublayer, shard_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sandwich(ResidualOption):
    """The input and the output of a sublayer are normalised."""

    def build(self, settings: LayerSettings, make: ParameterMaker, sublayers_before: jax.Array | int) -> ResidualStream:
        """Returns the module of one layer."""
        return SandwichStream(settings, make)


class SandwichStream(ResidualStream):
    """The norms of the inputs and outputs of sublayers."""

    def __init__(self, settings: LayerSettings, make: ParameterMaker) -> None:
        """Args: the settings of the model and the layer, the maker of parameters."""
        super().__init__(settings, make)
        self.make_norms("norm", make)
        self.make_norms("output_norm", make)

    def read(self, x_BTD: jax.Array, i: Sublayer) -> tuple[jax.Array, jax.Array]:
        """Returns N(x) to the sublayer, and x as the stream."""
        return self.part("norm", i)(x_BTD), x_BTD

    def write(self, x_BTD: jax.Array, y_BTD: jax.Array, i: Sublayer, context: Context) -> jax.Array:
        """Returns x + M(y)."""
        return shard_stream(x_BTD + self.sublayer_output(self.part("output_norm", i)(y_BTD), i, context), context)
