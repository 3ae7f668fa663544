"""Value residuals: the values of the first layer, mixed into those of every later one.

Zhou et al. 2024, "Value Residual Learning" (arXiv 2410.17897), section 3: with V_n the values of layer n,

    V'_1 = V_1        V'_n = first V_1 + own V_n        Y_n = softmax(Q_n K_n^T / sqrt(H)) V'_n

The weights are constants, the same in all layers, or trained in each. The paper calls 1/2 and 1/2 the identity form,
other numbers the constant form and trained ones, which start there, the learnable form. Its sparse form, and trained
weights that start otherwise in deeper layers, are exceptions (`Except`): layers that have no such option, or other
numbers. Layers count from the first that has it. Gradients of later layers reach V_1. A cache holds V'_n, so that
decoding needs nothing more. All of this is as in the authors' code (github.com/Zcchill/Value-Residual-Learning), which
has constants of 1/2 alone. Weight decay spares trained weights.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from model.context import Context
from model.parameters.gradients import narrowed
from model.parameters.maker import ParameterMaker


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueResidual:
    """The weights of both values.

    Attributes:
      first: of those of the first layer.
      own: of a layer's own.
      trained: whether every layer trains both, from these on; those of the first layer that has them do nothing.
    """

    first: float = 0.5
    own: float = 0.5
    trained: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.first == 0 and not self.trained:
            yield "first", "0 mixes nothing in; set value_residual=None, or trained=True to start there"
        if self.own == 0 and not self.trained:
            yield "own", "0 leaves the values that a layer projects unused; set trained=True to start there"

    def build(self, make: ParameterMaker) -> "MixedValues":
        """The module of one layer."""
        return MixedValues(self, make)


class MixedValues(nnx.Module):
    """The option as a module."""

    def __init__(self, option: ValueResidual, make: ParameterMaker) -> None:
        """Args: the option, the maker."""
        self.option = option
        start = jnp.array([option.first, option.own])
        self.weights = make.computed("mixing", start, (None,)) if option.trained else None

    def __call__(self, v_BTKH: jax.Array, context: Context) -> jax.Array:
        """The values to attend to; those of the first layer are handed on."""
        first_BTKH, is_first = context.hand_on("value_residual", v_BTKH)
        if self.weights is None:
            return jnp.where(is_first, v_BTKH, self.option.first * first_BTKH + self.option.own * v_BTKH)
        first, own = (narrowed(self.weights[...][k], v_BTKH) for k in (0, 1))
        return jnp.where(is_first, v_BTKH, first * first_BTKH + own * v_BTKH)
