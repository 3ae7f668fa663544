"""Pre-norm: x + F(N(x)).

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2), section 2.3.
"""

import dataclasses
from typing import ClassVar

import jax

from model.context import Context
from model.parameters.maker import ParameterMaker
from model.residual.scheme import LayerSettings, ResidualOption, ResidualStream, Sublayer, shard_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreNorm(ResidualOption):
    """Sublayers read the normalised stream.

    Attributes:
      first_norm: whether the first sublayer of the model does; False where embeddings have a norm already (ModernBERT).
    """

    first_norm: bool = True

    additive: ClassVar[bool] = True

    def build(self, settings: LayerSettings, make: ParameterMaker, sublayers_before: jax.Array | int) -> ResidualStream:
        """Returns the module of one layer."""
        return PreNormStream(settings, make)


class PreNormStream(ResidualStream):
    """The norms of the inputs of sublayers."""

    def __init__(self, settings: LayerSettings, make: ParameterMaker) -> None:
        """Args: the settings of the model and the layer, the maker of parameters."""
        super().__init__(settings, make)
        self.make_norms("norm", make, *settings.unnormed)

    def read(self, x_BTD: jax.Array, i: Sublayer) -> tuple[jax.Array, jax.Array]:
        """Returns N(x) to the sublayer, or x where it has no norm, and x as the stream."""
        norm = self.part("norm", i)
        return (x_BTD if norm is None else norm(x_BTD)), x_BTD

    def write(self, x_BTD: jax.Array, y_BTD: jax.Array, i: Sublayer, context: Context) -> jax.Array:
        """Returns x + y."""
        return shard_stream(x_BTD + self.sublayer_output(y_BTD, i, context), context)
