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
        """The module of one layer."""
        return PreNormStream(around, make)


class PreNormStream(Stream):
    """Norms on what is read."""

    def __init__(self, around: Around, make: ParameterMaker) -> None:
        """Args: what the model and the layer say, the maker of parameters."""
        super().__init__(around, make)
        self.make_norms("norm", make)

    def read(self, x_BTD: jax.Array, i: Sublayer) -> tuple[jax.Array, jax.Array]:
        """N(x), and x."""
        return self.part("norm", i)(x_BTD), x_BTD

    def write(self, x_BTD: jax.Array, y_BTD: jax.Array, i: Sublayer, context: Context) -> jax.Array:
        """x + y."""
        return placed(x_BTD + self.scaled(y_BTD, i, context), context)
