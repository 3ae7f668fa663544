"""Value residuals: the values of the first layer, mixed into those of every later layer.

Zhou et al. 2024, "Value Residual Learning" (arXiv 2410.17897), section 3: with V_n the values of layer n,

    V'_1 = V_1        V'_n = first V_1 + own V_n        Y_n = softmax(Q_n K_n^T / sqrt(H)) V'_n

The weights are constants, the same in all layers, or trained in each layer. The paper calls 1/2 and 1/2 the identity
form, other constants the constant form, and trained weights, which start at constants, the learnable form. For its
sparse form, and for trained weights with other initial values in deeper layers, use exceptions (`Except`): layers
without this option, or with other numbers. Layer 1 is the first layer with this option. Gradients of later layers reach
V_1. A cache holds V'_n, so decoding needs nothing more. All of this is as in the authors' code
(github.com/Zcchill/Value-Residual-Learning), which has only constants of 1/2. Weight decay spares trained weights.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from model.context import Context
from model.parameters.maker import ParameterMaker
from model.parameters.mixed_precision import cast_like


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueResidual:
    """The weights of the first layer's values and of the layer's own.

    Attributes:
      first: the weight of the first layer's values.
      own: the weight of the layer's own values.
      trained: whether every layer trains both weights from these values; in the first layer they have no effect.
    """

    first: float = 0.5
    own: float = 0.5
    trained: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.first == 0 and not self.trained:
            yield "first", "0 mixes nothing in; set value_residual=None, or trained=True to start at 0"
        if self.own == 0 and not self.trained:
            yield "own", "0 leaves the values of the layer unused; set another number, or trained=True to start at 0"

    def build(self, make: ParameterMaker) -> "ValueMixing":
        """Returns the module of one layer."""
        return ValueMixing(self, make)


class ValueMixing(nnx.Module):
    """The module that mixes values."""

    def __init__(self, option: ValueResidual, make: ParameterMaker) -> None:
        """Args: the option, the maker."""
        self.option = option
        start = jnp.array([option.first, option.own])
        self.weights = make.from_values("mixing", start, (None,)) if option.trained else None

    def __call__(self, v_BTKH: jax.Array, context: Context) -> jax.Array:
        """Returns the values to attend to; the first layer shares its own."""
        first_BTKH, is_first = context.share_first("value_residual", v_BTKH)
        if self.weights is None:
            return jnp.where(is_first, v_BTKH, self.option.first * first_BTKH + self.option.own * v_BTKH)
        first, own = (cast_like(self.weights[...][k], v_BTKH) for k in (0, 1))
        return jnp.where(is_first, v_BTKH, first * first_BTKH + own * v_BTKH)
