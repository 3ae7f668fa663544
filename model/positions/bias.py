"""Positions that act on scores: the protocol between a position option and the attention of its layers.

An option that adds a bias to scores makes its table of trained numbers, if it has one, and makes of it a
`model.kernels.scoring.Bias`, which kernels ask for the biases of a block. All other options inherit from
`AttentionPosition`, which adds no bias.
"""

from typing import TYPE_CHECKING

import jax
from flax import nnx

from model.parameters.maker import ParameterMaker
from model.positions.option import PositionOption

if TYPE_CHECKING:  # attention imports positions
    from model.kernels.scoring import Bias


class AttentionPosition(PositionOption):
    """The methods that attention calls on the positions of its layer."""

    def bias_table(self, num_heads: int, make: ParameterMaker) -> nnx.Param | None:
        """Makes the trained numbers of a layer with `num_heads` heads; None if there are none."""
        return None

    def bias(self, num_heads: int, table: jax.Array | None) -> "Bias | None":
        """Returns the bias on scores, made from the numbers of `bias_table`; None for no bias."""
        return None
