"""ALiBi: a linear bias on scores, which fall with the distance between query and key.

Press et al. 2021, "Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation", section 3.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp

from model.layout import AxisSharding
from model.positions.bias import AttentionPosition

if TYPE_CHECKING:  # attention imports positions
    from model.kernels.visibility import Coordinates


@dataclasses.dataclass(frozen=True, kw_only=True)
class ALiBi(AttentionPosition):
    """Adds scale * slope_n * (key position - query position) to the scores of head n; nothing is learned.

    Attributes:
      scale: 1 in the paper and in BLOOM; Falcon uses H^-1/2, the scale of products of queries and keys.
      round_to_bfloat16: whether slope and position, and then their product, are rounded to bfloat16 before the product
        of the query is subtracted from that of the key. Falcon's code computes them so, and its models were trained
        with it.
    """

    scale: float = 1.0
    round_to_bfloat16: bool = False

    of_later_keys: ClassVar[bool] = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.scale <= 0:
            yield "scale", f"must be above 0, got {self.scale}; use NoPositions for no biases"

    def bias(self, num_heads: int, table: jax.Array | None) -> "LinearBias":
        """See `AttentionPosition`."""
        return LinearBias(slopes(num_heads), self.scale, self.round_to_bfloat16)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LinearBias:
    """The biases of heads with these slopes; see `ALiBi` for the other fields.

    Attributes:
      slopes: of all heads.
      scale, round_to_bfloat16: see `ALiBi`.
      heads: how the heads are split, where the bias is that of one device's heads.
    """

    slopes: tuple[float, ...]
    scale: float = 1.0
    round_to_bfloat16: bool = False
    heads: AxisSharding = AxisSharding()

    def __call__(self, queries: "Coordinates", keys: "Coordinates") -> jax.Array:
        """Returns the biases of a block, float32 (B or 1, N, T, S)."""
        query_BT, key_BS = queries.positions(), keys.positions()
        slope_N11 = self._slopes_of_device()[:, None, None]
        if self.round_to_bfloat16:
            # A compiler may leave out a cast to bfloat16 and back, but not this.
            to_bfloat16 = functools.partial(jax.lax.reduce_precision, exponent_bits=8, mantissa_bits=7)
            query, key = (
                to_bfloat16(position.astype(jnp.float32)) for position in (query_BT[..., None], key_BS[:, None])
            )
            query, key = (to_bfloat16(to_bfloat16(slope_N11) * position[:, None]) for position in (query, key))
            bias_BNTS = key - query
        else:
            distance_BTS = (key_BS[:, None, :] - query_BT[:, :, None]).astype(jnp.float32)
            bias_BNTS = slope_N11 * distance_BTS[:, None]
        return bias_BNTS if self.scale == 1 else self.scale * bias_BNTS

    def axes(self, heads: AxisSharding) -> "LinearBias":
        """See `Bias`; there are no arrays."""
        return self

    def of_device(self, heads: AxisSharding) -> "LinearBias":
        """See `Bias`."""
        return dataclasses.replace(self, heads=heads)

    def _slopes_of_device(self) -> jax.Array:
        slope_N = jnp.asarray(self.slopes, jnp.float32)
        if self.heads.ways == 1:
            return slope_N
        count = len(self.slopes) // self.heads.ways
        return jax.lax.dynamic_slice_in_dim(slope_N, jax.lax.axis_index(self.heads.mesh_axes) * count, count)


def slopes(num_heads: int) -> tuple[float, ...]:
    """Returns the slope of every head, by the paper's rule.

    If N is a power of two, the slopes are 2^(-8/N), 2^(-16/N), ..., 2^-8. Otherwise they are the slopes for P, the
    largest power of two below N, then every second slope for 2P, from the first on (the paper's code; BLOOM, 2022).
    """
    power = 2 ** (num_heads.bit_length() - 1)
    further = _geometric(2 * power)[::2]
    return (*_geometric(power), *further[: num_heads - power])


def _geometric(num_heads: int) -> tuple[float, ...]:
    return tuple(2 ** (-8 * n / num_heads) for n in range(1, num_heads + 1))
