"""Relative position biases (T5): a trained number for every head and bucket of distances, added to scores.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (T5), section
2.1. In T5 all layers share the numbers of the first layer (`shared`); where queries see later keys too, half of the
buckets are for these (`bidirectional`).
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx, struct

from model.layout import AxisSharding
from model.parameters.maker import ParameterMaker
from model.positions.bias import AttentionPosition

if TYPE_CHECKING:  # attention imports positions
    from model.kernels.visibility import Coordinates


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelativeBias(AttentionPosition):
    """Adds to each score a trained number for the bucket of the distance from key to query.

    Each distance below buckets / 2 has its own bucket. Longer distances share the other buckets, whose bounds grow
    geometrically up to `max_distance`; the last bucket also has all longer distances. A key after its query counts as a
    key at distance 0, unless the buckets are `bidirectional`.

    Attributes:
      buckets: the number of buckets.
      max_distance: the distance at which the geometric buckets end.
      bidirectional: whether the first half of the buckets is for keys before their query and its own, by the same rule,
        and the second half for keys after it.
      shared: whether all layers have one table.
    """

    buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = False
    shared: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        least, near = 4 if self.bidirectional else 2, self.buckets_of_a_side // 2
        if self.buckets < least:
            yield "buckets", f"must be at least {least}, got {self.buckets}"
        elif self.bidirectional and self.buckets % 2:
            yield "buckets", f"must be even, half of them for later keys, got {self.buckets}"
        elif self.max_distance <= near:
            yield "max_distance", f"must be above the {near} distances that have a bucket each, got {self.max_distance}"

    @property
    def of_later_keys(self) -> bool:  # type: ignore[override]
        """See `PositionOption`."""
        return self.bidirectional

    @property
    def buckets_of_a_side(self) -> int:
        """The number of buckets for keys before a query."""
        return self.buckets // 2 if self.bidirectional else self.buckets

    def new_table(self, num_heads: int, make: ParameterMaker) -> nnx.Param:
        """Makes the numbers; they start from zeros, which is no bias."""
        return make.zeros((self.buckets, num_heads), ("position", "heads"))

    def bias_table(self, num_heads: int, make: ParameterMaker) -> nnx.Param | None:
        """See `AttentionPosition`; layers that share a table have none of their own."""
        return None if self.shared else self.new_table(num_heads, make)

    def bias(self, num_heads: int, table: jax.Array | None) -> "BucketBias":
        """See `AttentionPosition`."""
        assert table is not None
        return BucketBias(table, self.max_distance, self.bidirectional)


@struct.dataclass
class BucketBias:
    """The biases of a table (buckets, N); see `RelativeBias`."""

    table: jax.Array
    max_distance: int = struct.field(pytree_node=False)
    bidirectional: bool = struct.field(pytree_node=False, default=False)

    def __call__(self, queries: "Coordinates", keys: "Coordinates") -> jax.Array:
        """Returns the biases of a block, float32 (B or 1, N, T, S)."""
        distance_BTS = queries.positions()[:, :, None] - keys.positions()[:, None, :]
        return jnp.moveaxis(self.table.astype(jnp.float32)[self.bucket(distance_BTS)], -1, 1)

    def axes(self, heads: AxisSharding) -> "BucketBias":
        """See `Bias`."""
        return self.replace(table=(None, heads))  # type: ignore[attr-defined]

    def of_device(self, heads: AxisSharding) -> "BucketBias":
        """See `Bias`."""
        return self

    def bucket(self, distance_BTS: jax.Array) -> jax.Array:
        """Returns the bucket of each distance, int32."""
        buckets = self.table.shape[0]
        if self.bidirectional:
            buckets //= 2
            return self._of_a_side(jnp.abs(distance_BTS), buckets) + jnp.where(distance_BTS < 0, buckets, 0)
        return self._of_a_side(distance_BTS, buckets)

    def _of_a_side(self, distance_BTS: jax.Array, buckets: int) -> jax.Array:
        """Returns the bucket, among so many, of each distance from a key to a later query."""
        near = buckets // 2
        # The bounds of the wider buckets are rounded up to integers, so that no rounded logarithm decides a bucket.
        powers = [near * (self.max_distance / near) ** (i / (buckets - near)) for i in range(1, buckets - near)]
        lower_bounds = [math.ceil(power - 1e-9) for power in powers]
        far_BTS = sum(((distance_BTS >= bound).astype(jnp.int32) for bound in lower_bounds), jnp.int32(near))
        return jnp.where(distance_BTS < near, jnp.maximum(distance_BTS, 0), far_BTS)
