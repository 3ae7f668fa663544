"""Grouped products on a CPU, some rows of one group at a time: the work of the rows that there are.

XLA's `ragged_dot` multiplies every row by every matrix on a CPU. Here a loop goes over tiles: `rows` rows that follow
one another, beginning in one group, times that group's matrix. Gale et al. 2022, "MegaBlocks", section 5.1.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.kernels import refusals
from model.kernels.experts.grouped_products import GroupedRequest
from model.layout import vary, varying_axes


class _Plan(NamedTuple):
    """Which rows each tile has: its group and its first row; `ends` is where the rows of each group end."""

    group_N: jax.Array
    first_N: jax.Array
    ends_E: jax.Array
    num_tiles: jax.Array


def _plan(sizes_E: jax.Array, num_rows: int, tile: int) -> _Plan:
    """Cuts groups into tiles, of which the last of each group may reach into the next one."""
    ends_E = jnp.cumsum(sizes_E)
    tiles_E = -(-sizes_E // tile)
    after_E = jnp.cumsum(tiles_E)
    most = max(1, num_rows // tile + min(sizes_E.size, num_rows))
    group_N = jnp.minimum(jnp.sum(jnp.arange(most)[:, None] >= after_E, axis=1), sizes_E.size - 1)
    within_N = jnp.arange(most) - (after_E - tiles_E)[group_N]
    return _Plan(group_N, (ends_E - sizes_E)[group_N] + within_N * tile, ends_E, after_E[-1])


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The kernel of this file. Its derivative is written by hand, hence no `jax.jvp`; `RaggedDot` has one in float32.

    Attributes:
      rows: the most rows of a tile.
      name: the name of the kernel.
      platforms: where it runs.
      only_xla: as of `GroupedKernel`.
    """

    rows: int = 128
    name: str = "tiles"
    platforms: tuple[str, ...] = ("cpu",)
    only_xla: bool = True

    def supports(self, request: GroupedRequest) -> str | None:
        """Returns None if the kernel takes a request, else the reason why it does not."""
        return refusals.first(self._refusals(request))

    def _refusals(self, request: GroupedRequest) -> Iterator[str]:
        yield from refusals.of_platform(request, self.platforms)

    def forward(self, x_MD: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
        """See `GroupedKernel`."""
        return self._multiply(x_MD, w_EDF, sizes_E, contract=1)

    def backward(self, dy_MF: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
        """See `GroupedKernel`."""
        return self._multiply(dy_MF, w_EDF, sizes_E, contract=2)

    def _multiply(self, x: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array, contract: int) -> jax.Array:
        num_rows, tile = x.shape[0], self._tile(x.shape[0], len(w_EDF))
        plan = _plan(sizes_E, num_rows, tile)
        padded = jnp.pad(x, ((0, tile), (0, 0)))

        def add(n: jax.Array, y: jax.Array) -> jax.Array:
            # Rows of the next group, at the end of a tile, are written again by the tile that they are the first of.
            rows = jax.lax.dynamic_slice_in_dim(padded, plan.first_N[n], tile)
            matrix = jax.lax.dynamic_index_in_dim(w_EDF, plan.group_N[n], keepdims=False)
            product = jax.lax.dot_general(rows, matrix, (((1,), (contract - 1,)), ((), ())))
            return jax.lax.dynamic_update_slice_in_dim(y, product, plan.first_N[n], axis=0)

        empty = jnp.zeros((num_rows + tile, w_EDF.shape[3 - contract]), x.dtype)
        empty = vary(empty, varying_axes(x, w_EDF, sizes_E))
        y = jax.lax.fori_loop(0, plan.num_tiles, add, empty)[:num_rows]
        return jnp.where((jnp.arange(num_rows) < plan.ends_E[-1])[:, None], y, 0)

    def weight_gradient(self, x_MD: jax.Array, dy_MF: jax.Array, sizes_E: jax.Array, dtype: Any) -> jax.Array:
        """See `GroupedKernel`."""
        num_rows, tile = len(x_MD), self._tile(len(x_MD), sizes_E.size)
        plan = _plan(sizes_E, num_rows, tile)
        x_MD, dy_MF = (jnp.pad(rows, ((0, tile), (0, 0))) for rows in (x_MD, dy_MF))
        wide = jnp.promote_types(dtype, jnp.float32)  # a sum of many tiles in bfloat16 would lose the last ones

        def add(n: jax.Array, dw_EDF: jax.Array) -> jax.Array:
            group, first = plan.group_N[n], plan.first_N[n]
            here = (first + jnp.arange(tile) < plan.ends_E[group])[:, None]
            # Both are cleared: 0 times a number that is not finite, in a row of another group, is not 0.
            x, dy = (jnp.where(here, jax.lax.dynamic_slice_in_dim(rows, first, tile), 0) for rows in (x_MD, dy_MF))
            product = jax.lax.dot_general(x, dy, (((0,), (0,)), ((), ())), preferred_element_type=wide)
            return dw_EDF.at[group].add(product)

        empty = jnp.zeros((sizes_E.size, x_MD.shape[1], dy_MF.shape[1]), wide)
        empty = vary(empty, varying_axes(x_MD, dy_MF, sizes_E))
        dw_EDF = jax.lax.fori_loop(0, plan.num_tiles, add, empty)
        return dw_EDF.astype(dtype)

    def _tile(self, num_rows: int, groups: int) -> int:
        """Returns the rows of a tile: about half as many as a group has if all have as many, and 8 or more."""
        half = max(num_rows // (2 * groups), 1)
        return max(min(1 << (half.bit_length() - 1), self.rows), min(8, self.rows))
