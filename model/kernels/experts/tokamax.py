"""Grouped products by tokamax on NVIDIA GPUs."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from model.kernels import refusals
from model.kernels.experts.grouped_products import ROWS_IN_GROUPS, GroupedRequest, refusals_of_dtype
from model.kernels.gpu.tokamax import INSTALL, is_installed


@dataclasses.dataclass(frozen=True)
class TokamaxRaggedDot:
    """The Mosaic kernel of tokamax for NVIDIA GPUs."""

    name: str = "tokamax"
    platforms: tuple[str, ...] = ("gpu",)
    only_xla: bool = False

    def supports(self, request: GroupedRequest) -> str | None:
        """Returns None if the kernel takes a request, else the reason why it does not."""
        return refusals.first(self._refusals(request))

    def _refusals(self, request: GroupedRequest) -> Iterator[str]:
        yield from refusals.of_platform(request, self.platforms)
        if not is_installed():
            yield f"it is not installed: {INSTALL}"
        if request.compute_capability not in ((9, 0), (10, 0)):
            yield "it needs a GPU of compute capability 9.0 or 10.0"
        yield from refusals_of_dtype(request, ("bfloat16", "float16"))
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
            x_MD, dy_MF, sizes_E, ROWS_IN_GROUPS, preferred_element_type=dtype
        )
        return dw_EDF
