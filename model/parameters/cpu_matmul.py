"""Matrix products of activations with weights in shapes that are fast on a CPU; other platforms never trace this file.

Both sides are flattened to matrices first, so that the product and the two products of its gradient each contract a
single axis: otherwise a weight gradient, which contracts batch and position as two axes, is copied first (measured:
tests/benchmarks/README.md). Flattening would gather rows or positions that are split over devices, so it is only for
layouts that split neither.

The gradient of a weight is a product too, and a CPU needs up to twice the time for a result of 512 x 128 as for one of
128 x 512, though each is the transpose of the other. So it is computed with the shorter axis first, then transposed.
"""

import math

import jax

from model.layout import Layout
from model.parameters.mixed_precision import weight_einsum


def applies_to(layout: Layout) -> bool:
    """Returns whether this file computes the products of a layout: on CPUs, if it splits neither rows nor positions."""
    return layout.platform == "cpu" and not layout.splits_tokens


def matmul(x: jax.Array, w: jax.Array, contract: int, dtype: jax.typing.DTypeLike | None) -> jax.Array:
    """See `matmul` of model/parameters/projections.py."""
    inner = math.prod(w.shape[:contract])
    y_MN = _matmul(x.reshape(-1, inner), w.reshape(inner, -1), dtype)
    return y_MN.reshape(*x.shape[: x.ndim - contract], *w.shape[contract:])


def _matmul(x_MK: jax.Array, w_KN: jax.Array, dtype: jax.typing.DTypeLike | None) -> jax.Array:
    k, n = w_KN.shape
    if k > n:
        return weight_einsum("MK,NK->MN", x_MK, _pin_gradient_shape(w_KN.T), dtype)
    return weight_einsum("MK,KN->MN", x_MK, _pin_gradient_shape(w_KN), dtype)


@jax.custom_vjp
def _pin_gradient_shape(w: jax.Array) -> jax.Array:
    """Returns w; makes the compiler compute its gradient in this shape, whatever transposes follow."""
    return w


_pin_gradient_shape.defvjp(lambda w: (w, None), lambda _, dw: (jax.lax.optimization_barrier(dw),))
