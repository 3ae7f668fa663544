"""Grouped matrix products, for experts: rows in E groups one after another, each group times its own matrix.

A kernel has three products: forward, the gradient of the rows, and the gradient of the matrices. Gale et al. 2022,
"MegaBlocks", section 5.1.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp


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

    @property
    def only_xla(self) -> bool:
        """Whether it consists of operations of XLA, so that JAX can follow which devices hold copies of what."""

    def supports(self, request: GroupedRequest) -> str | None:
        """Returns None if the kernel takes a request, else the reason why it does not."""

    def forward(self, x_MD: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
        """Returns x times the matrix of each row's group, (M, F), in the dtype of both."""

    def backward(self, dy_MF: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
        """Returns the gradient of x: dy times the transposed matrices, (M, D)."""

    def weight_gradient(self, x_MD: jax.Array, dy_MF: jax.Array, sizes_E: jax.Array, dtype: Any) -> jax.Array:
        """Returns the gradient of w, (E, D, F), accumulated and returned in a dtype."""


# The rows of both sides are in groups, and are summed over.
ROWS_IN_GROUPS = jax.lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), (0,), ())


def refusals_of_dtype(request: GroupedRequest, allowed: tuple[str, ...]) -> Iterator[str]:
    """Yields why the format of rows is not `allowed`."""
    if (name := jnp.dtype(request.x.dtype).name) not in allowed:
        yield f"it takes {' and '.join(allowed)}, not {name}"


@dataclasses.dataclass(frozen=True)
class RaggedDot:
    """The operation of XLA (`jax.lax.ragged_dot`), for every platform; on a CPU it takes E times the work."""

    name: str = "ragged_dot"
    platforms: tuple[str, ...] = ()
    only_xla: bool = True

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
        return jax.lax.ragged_dot_general(x_MD, dy_MF, sizes_E, ROWS_IN_GROUPS, preferred_element_type=dtype)


RAGGED_DOT = RaggedDot()
