"""Post-norm: N(alpha x + F(x)).

Vaswani et al. 2017, "Attention Is All You Need", section 3.1, with alpha 1; Wang et al. 2022, "DeepNet: Scaling
Transformers to 1,000 Layers", figure 2.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.context import Context
from model.parameters.maker import ParameterMaker
from model.residual.scheme import LayerSettings, ResidualOption, ResidualStream, Sublayer, shard_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class PostNorm(ResidualOption):
    """The sum is normalised; `alpha` weighs the stream in it (DeepNet: (2 num_layers)^(1/4), and an initial `beta`)."""

    alpha: float = 1.0

    final_norm: ClassVar[bool] = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.alpha <= 0:
            yield "alpha", f"must be above 0, got {self.alpha}"

    def build(self, settings: LayerSettings, make: ParameterMaker, sublayers_before: jax.Array | int) -> ResidualStream:
        """Returns the module of one layer."""
        return PostNormStream(self.alpha, settings, make)


class PostNormStream(ResidualStream):
    """The norms of the sums."""

    def __init__(self, alpha: float, settings: LayerSettings, make: ParameterMaker) -> None:
        """Args: the weight of the stream, the settings of the model and the layer, the maker of parameters."""
        super().__init__(settings, make)
        self.alpha = alpha
        self.make_norms("norm", make)

    def read(self, x_BTD: jax.Array, i: Sublayer) -> tuple[jax.Array, jax.Array]:
        """Returns x to the sublayer, and x as the stream."""
        return x_BTD, x_BTD

    def write(self, x_BTD: jax.Array, y_BTD: jax.Array, i: Sublayer, context: Context) -> jax.Array:
        """Returns N(alpha x + y)."""
        if self.alpha != 1:
            x_BTD = x_BTD * jnp.asarray(self.alpha, x_BTD.dtype)
        return shard_stream(self.part("norm", i)(x_BTD + self.sublayer_output(y_BTD, i, context)), context)
