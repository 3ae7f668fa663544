"""Grouped matrix products, for experts: rows in E groups one after another, each group times its own matrix.

`kernel_for` returns the first kernel that takes the shapes on the platform. A kernel has three products:
forward, the gradient of the rows, and the gradient of the matrices. Gale et al. 2022, "MegaBlocks", section 5.1.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from model.kernels import refusals, selection
from model.kernels.gpu.tokamax import INSTALL, is_installed
from model.kernels.request import compute_capability
from model.kernels.tpu.splash import block_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupedRequest:
    """One grouped product on one device, without its arrays.

    Attributes:
      x, w: the shape and dtype of rows (M, D) and matrices (E, D, F); both are multiplied in the dtype of x.
      platform, compute_capability: as of `model.kernels.request.Request`.
    """

    use: ClassVar[str] = "experts"
    x: jax.ShapeDtypeStruct
    w: jax.ShapeDtypeStruct
    platform: str = "cpu"
    compute_capability: tuple[int, int] = (9, 0)


class GroupedKernel(Protocol):
    """One way to compute the three products. Rows after the last group have the product 0."""

    @property
    def name(self) -> str:
        """The name of the kernel."""

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms that it runs on; () for all of them."""

    def supports(self, request: GroupedRequest) -> str | None:
        """Returns None if the kernel takes a request, else the reason why it does not."""

    def forward(self, x_MD: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
        """Returns x times the matrix of each row's group, (M, F), in the dtype of both."""

    def backward(self, dy_MF: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
        """Returns the gradient of x: dy times the transposed matrices, (M, D)."""

    def weight_gradient(self, x_MD: jax.Array, dy_MF: jax.Array, sizes_E: jax.Array, dtype: Any) -> jax.Array:
        """Returns the gradient of w, (E, D, F), accumulated and returned in a dtype."""


@dataclasses.dataclass(frozen=True)
class RaggedDot:
    """The operation of XLA (`jax.lax.ragged_dot`), for every platform; on a CPU it takes E times the work."""

    name: str = "ragged_dot"
    platforms: tuple[str, ...] = ()

    def supports(self, request: GroupedRequest) -> str | None:
        """Returns None: it takes every request."""
        return None

    def forward(self, x_MD: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
        """See `GroupedKernel`."""
        return jax.lax.ragged_dot(x_MD, w_EDF, sizes_E)

    def backward(self, dy_MF: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
        """See `GroupedKernel`."""
        return jax.lax.ragged_dot(dy_MF, w_EDF.swapaxes(1, 2), sizes_E)

    def weight_gradient(self, x_MD: jax.Array, dy_MF: jax.Array, sizes_E: jax.Array, dtype: Any) -> jax.Array:
        """See `GroupedKernel`."""
        return jax.lax.ragged_dot_general(x_MD, dy_MF, sizes_E, _ROWS_IN_GROUPS, preferred_element_type=dtype)


# The rows of both sides are in groups, and are summed over.
_ROWS_IN_GROUPS = jax.lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), (0,), ())

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
    """

    interpret: bool = False
    rows: int = _ROWS
    name: str = "megablox"

    @property
    def platforms(self) -> tuple[str, ...]:
        """See `GroupedKernel`."""
        return () if self.interpret else ("tpu",)

    def supports(self, request: GroupedRequest) -> str | None:
        """Returns None if the kernel takes a request, else the reason why it does not."""
        return refusals.first(self._refusals(request))

    def _refusals(self, request: GroupedRequest) -> Iterator[str]:
        yield from refusals.of_platform(request, self.platforms)
        yield from _refusals_of_dtype(request, ("bfloat16", "float32"))
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


@dataclasses.dataclass(frozen=True)
class TokamaxRaggedDot:
    """The Mosaic kernel of tokamax for NVIDIA GPUs."""

    name: str = "tokamax"
    platforms: tuple[str, ...] = ("gpu",)

    def supports(self, request: GroupedRequest) -> str | None:
        """Returns None if the kernel takes a request, else the reason why it does not."""
        return refusals.first(self._refusals(request))

    def _refusals(self, request: GroupedRequest) -> Iterator[str]:
        yield from refusals.of_platform(request, self.platforms)
        if not is_installed():
            yield f"it is not installed: {INSTALL}"
        if request.compute_capability not in ((9, 0), (10, 0)):
            yield "it needs a GPU of compute capability 9.0 or 10.0"
        yield from _refusals_of_dtype(request, ("bfloat16", "float16"))
        if request.x.shape[0] % 128 or any(size % 128 for size in request.w.shape[1:]):
            yield f"{request.x.shape[0]:,} rows and matrices of {request.w.shape[1:]} are not all multiples of 128"

    def forward(self, x_MD: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
        """See `GroupedKernel`."""
        import tokamax

        y_MF: jax.Array = tokamax.ragged_dot(x_MD, w_EDF, sizes_E, implementation=("mosaic", "triton"))
        return y_MF

    def backward(self, dy_MF: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
        """See `GroupedKernel`."""
        return self.forward(dy_MF, w_EDF.swapaxes(1, 2), sizes_E)

    def weight_gradient(self, x_MD: jax.Array, dy_MF: jax.Array, sizes_E: jax.Array, dtype: Any) -> jax.Array:
        """See `GroupedKernel`; the library's own choice of kernel, XLA's if it has no other."""
        import tokamax

        dw_EDF: jax.Array = tokamax.ragged_dot_general(
            x_MD, dy_MF, sizes_E, _ROWS_IN_GROUPS, preferred_element_type=dtype
        )
        return dw_EDF


# In the order in which they are asked.
KERNELS: tuple[GroupedKernel, ...] = (TokamaxRaggedDot(), Megablox(), RaggedDot())
RAGGED_DOT = RaggedDot()


def _refusals_of_dtype(request: GroupedRequest, allowed: tuple[str, ...]) -> Iterator[str]:
    if (name := jnp.dtype(request.x.dtype).name) not in allowed:
        yield f"it takes {' and '.join(allowed)}, not {name}"


def kernel_for(x_MD: jax.Array, w_EDF: jax.Array, platform: str, kernels: tuple[GroupedKernel, ...]) -> GroupedKernel:
    """Returns the first of these kernels that multiplies rows by the matrices of their groups, and records it.

    Raises:
      UserError: if none of them takes the shapes on the platform.
    """
    x, w = (jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (x_MD, w_EDF))
    request = GroupedRequest(x=x, w=w, platform=platform, compute_capability=compute_capability())
    choice = selection.choose(request, kernels)
    selection.record_choice(request.use, choice)
    kernel: GroupedKernel = choice.kernel
    return kernel


def only_xla(kernels: tuple[GroupedKernel, ...], platform: str) -> bool:
    """Whether all of these kernels that run on a platform are operations of XLA, whose copies JAX can follow."""
    return all(kernel == RAGGED_DOT for kernel in kernels if selection.runs_on(kernel, platform))
