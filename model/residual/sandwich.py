"""Sandwich: x + M(F(N(x))).

Ding et al. 2021, "CogView: Mastering Text-to-Image Generation via Transformers", section 2.4; Gemma Team 2024,
"Gemma 2", section 2.
"""

import dataclasses
from collections.abc import Collection, Iterator
from typing import ClassVar

import jax

from model.context import Context
from model.parameters.maker import ParameterMaker
from model.residual.scheme import LayerSettings, ResidualOption, ResidualStream, Sublayer, shard_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sandwich(ResidualOption):
    """The input and the output of a sublayer are normalised.

    Attributes:
      ffn_input_norm: whether the input of a feed-forward layer is; False for one whose branches have norms of their own
        (Gemma 4 with experts).
    """

    ffn_input_norm: bool = True

    additive: ClassVar[bool] = True
    normalizes_output: ClassVar[bool] = True

    def problems_with(self, sublayers: Collection[tuple[Sublayer, ...]]) -> Iterator[tuple[str, str]]:
        """Yields fields without effect in a model whose layers have these sublayers."""
        if not self.ffn_input_norm and not any("ffn" in layer for layer in sublayers):
            yield "ffn_input_norm", "no layer has a feed-forward, whose input could have a norm; set it True"

    def build(self, settings: LayerSettings, make: ParameterMaker, sublayers_before: jax.Array | int) -> ResidualStream:
        """Returns the module of one layer."""
        return SandwichStream(self.ffn_input_norm, settings, make)


class SandwichStream(ResidualStream):
    """The norms of the inputs and outputs of sublayers."""

    def __init__(self, ffn_input_norm: bool, settings: LayerSettings, make: ParameterMaker) -> None:
        """Args: whether feed-forward layers have an input norm, the settings of model and layer, the maker."""
        super().__init__(settings, make)
        without: tuple[Sublayer, ...] = () if ffn_input_norm else ("ffn",)
        self.make_norms("norm", make, *without)
        self.make_norms("output_norm", make)

    def read(self, x_BTD: jax.Array, i: Sublayer) -> tuple[jax.Array, jax.Array]:
        """Returns N(x) to the sublayer, or x where it has no such norm, and x as the stream."""
        norm = self.part("norm", i)
        return x_BTD if norm is None else norm(x_BTD), x_BTD

    def write(self, x_BTD: jax.Array, y_BTD: jax.Array, i: Sublayer, context: Context) -> jax.Array:
        """Returns x + M(y)."""
        return shard_stream(x_BTD + self.sublayer_output(self.part("output_norm", i)(y_BTD), i, context), context)
