"""Grouped products by megablox, the Pallas kernel of JAX for TPUs."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from model.kernels import refusals
from model.kernels.experts.grouped_products import GroupedRequest, refusals_of_dtype
from model.kernels.tpu.splash import block_size

# The largest tiles of rows, and of both axes of a matrix, of the TPU kernel: with bfloat16, two of each input, the
# result and the float32 sum take 11 MiB of the 16 MiB that the compiler grants. Float32 has tiles of half the width.
_ROWS, _WIDTH = 512, 1024


@dataclasses.dataclass(frozen=True)
class Megablox:
    """The Pallas kernel of JAX for TPUs (megablox), which skips no row and visits each tile of rows once a group.

    Attributes:
      interpret: runs the kernel as plain operations, on any platform: slow, for tests.
      rows: the largest number of rows of a tile.
      name: the name of the kernel.
      only_xla: as of `GroupedKernel`.
    """

    interpret: bool = False
    rows: int = _ROWS
    name: str = "megablox"
    only_xla: bool = False

    @property
    def platforms(self) -> tuple[str, ...]:
        """See `GroupedKernel`."""
        return () if self.interpret else ("tpu",)

    def supports(self, request: GroupedRequest) -> str | None:
        """Returns None if the kernel takes a request, else the reason why it does not."""
        return refusals.first(self._refusals(request))

    def _refusals(self, request: GroupedRequest) -> Iterator[str]:
        yield from refusals.of_platform(request, self.platforms)
        yield from refusals_of_dtype(request, ("bfloat16", "float32"))
        if request.x.shape[0] % 128:
            yield f"{request.x.shape[0]:,} rows are no multiple of 128"
        if any(size % 128 for size in request.w.shape[1:]):
            yield f"matrices of {request.w.shape[1]:,} x {request.w.shape[2]:,} are no multiples of 128"

    def forward(self, x_MD: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
        """See `GroupedKernel`."""
        return self._multiply(x_MD, w_EDF, sizes_E, transposed=False)

    def backward(self, dy_MF: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
        """See `GroupedKernel`."""
        return self._multiply(dy_MF, w_EDF, sizes_E, transposed=True)

    def _multiply(self, x: jax.Array, w: jax.Array, sizes_E: jax.Array, transposed: bool) -> jax.Array:
        from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm

        tiles = self._tiles(x.dtype, len(x), x.shape[1], w.shape[1 if transposed else 2])
        y = gmm(x, w, sizes_E, x.dtype, tiles, transpose_rhs=transposed, interpret=self.interpret)
        return jnp.where((jnp.arange(len(x)) < jnp.sum(sizes_E))[:, None], y, 0)  # the kernel does not write other rows

    def weight_gradient(self, x_MD: jax.Array, dy_MF: jax.Array, sizes_E: jax.Array, dtype: Any) -> jax.Array:
        """See `GroupedKernel`."""
        from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

        tiles = self._tiles(x_MD.dtype, len(x_MD), x_MD.shape[1], dy_MF.shape[1])
        dw_EDF: jax.Array = tgmm(x_MD.swapaxes(0, 1), dy_MF, sizes_E, dtype, tiles, interpret=self.interpret)
        return jnp.where((sizes_E > 0)[:, None, None], dw_EDF, 0)

    def _tiles(self, dtype: Any, *sizes: int) -> tuple[int, int, int]:
        width = _WIDTH * 2 // jnp.dtype(dtype).itemsize
        rows, inner, outer = (
            block_size(size, most) for size, most in zip(sizes, (self.rows, width, width), strict=True)
        )
        return rows, inner, outer
