"""Pre-norm: x + F(N(x)).

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2), section 2.3.
"""

import dataclasses

import jax

from model.context import Context
from model.parameters.maker import ParameterMaker
from model.residual.scheme import Around, Scheme, Stream, Sublayer, placed


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreNorm(Scheme):
    """Sublayers read the normalised stream."""

    def build(self, around: Around, make: ParameterMaker, before: jax.Array | int) -> Stream:
        """Returns the module of one layer."""
        return PreNormStream(around, make)


class PreNormStream(Stream):
    """The norms of the inputs of sublayers."""

    def __init__(self, around: Around, make: ParameterMaker) -> None:
        """Args: the settings of the model and the layer, the maker of parameters."""
        super().__init__(around, make)
        self.make_norms("norm", make)

    def read(self, x_BTD: jax.Array, i: Sublayer) -> tuple[jax.Array, jax.Array]:
        """Returns N(x) to the sublayer, and x as the stream."""
        return self.part("norm", i)(x_BTD), x_BTD

    def write(self, x_BTD: jax.Array, y_BTD: jax.Array, i: Sublayer, context: Context) -> jax.Array:
        """Returns x + y."""
        return placed(x_BTD + self.scaled(y_BTD, i, context), context)
