"""Positions that act on scores: the protocol between a position option and the attention of its layers.

An option that adds something to scores says whether it has a table of trained numbers, and makes of it the value that
kernels ask for the biases of a block (`model.attention.scoring.Bias`). All other options inherit that they add nothing.
"""

from typing import TYPE_CHECKING

import jax
from flax import nnx

from model.parameters import ParameterMaker
from model.positions.option import PositionOption

if TYPE_CHECKING:  # attention imports positions
    from model.attention.scoring import Bias


class InScores(PositionOption):
    """What attention asks the positions of its layer."""

    def bias_table(self, num_heads: int, make: ParameterMaker) -> nnx.Param | None:
        """The trained numbers of a layer of so many heads; None for none."""
        return None

    def bias(self, num_heads: int, table: jax.Array | None) -> "Bias | None":
        """What is added to scores, of the numbers of `bias_table`; None for nothing."""
        return None
