"""Parameters in a wider format than activations: each use rounds them, and their gradients keep the wider format.

The gradient of a parameter is a sum over the tokens of all devices: each device adds up its own tokens, then the
partial sums are reduced. If a bfloat16 copy were differentiated, both sums would be bfloat16. Here each operation makes
the copy inside, and its derivative computes the gradient in the format of the parameter itself (`Precision.gradients`).

Where both formats are the same, each function is the plain operation.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from model.kernels.experts.grouped_products import RAGGED_DOT, GroupedKernel

# The name of a product whose derivative is written by hand, for policies of rematerialisation, which do not see inside.
WEIGHT_PRODUCT = "weight_product"


def weight_einsum(spec: str, x: jax.Array, w: jax.Array, dtype: jax.typing.DTypeLike | None = None) -> jax.Array:
    """Returns the einsum of activations and a weight, accumulated and returned in `dtype`, or in the dtype of x.

    Each letter of the weight must be in x or in the result, and each letter of x in the weight or in the result, as in
    "BTD,DF->BTF".
    """
    if w.dtype == x.dtype:
        return jnp.einsum(spec, x, w, preferred_element_type=dtype)
    return checkpoint_name(_weight_einsum(spec, dtype, x, w), WEIGHT_PRODUCT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _weight_einsum(spec: str, dtype: jax.typing.DTypeLike | None, x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.einsum(spec, x, w.astype(x.dtype), preferred_element_type=dtype)


def _weight_einsum_forward(
    spec: str, dtype: jax.typing.DTypeLike | None, x: jax.Array, w: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _weight_einsum(spec, dtype, x, w), (x, w)


def _weight_einsum_backward(
    spec: str, _: jax.typing.DTypeLike | None, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = residuals
    inputs, outputs = spec.split("->")
    x_axes, w_axes = inputs.split(",")
    rounded = w.astype(x.dtype).astype(dy.dtype)
    dx = jnp.einsum(f"{outputs},{w_axes}->{x_axes}", dy, rounded).astype(x.dtype)
    dw = jnp.einsum(f"{x_axes},{outputs}->{w_axes}", x.astype(dy.dtype), dy, preferred_element_type=w.dtype)
    return dx, dw


_weight_einsum.defvjp(_weight_einsum_forward, _weight_einsum_backward)


def lookup(table: jax.Array, index: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns table[index], rounded to a dtype; gradients of equal rows are summed in the format of the table."""
    return table[index] if table.dtype == dtype else _lookup(jnp.dtype(dtype), table, index)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lookup(dtype: jnp.dtype, table: jax.Array, index: jax.Array) -> jax.Array:
    return table.astype(dtype)[index]


def _lookup_backward(_: jnp.dtype, residuals: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, None]:
    table, index = residuals
    return jnp.zeros_like(table).at[index].add(dy.astype(table.dtype)), None


_lookup.defvjp(lambda dtype, table, index: (_lookup(dtype, table, index), (table, index)), _lookup_backward)


def cast_like(p: jax.Array, x: jax.Array) -> jax.Array:
    """Returns p, which is added to x or multiplies x, in the shape and dtype of x; p itself if the dtypes are equal."""
    return p if p.dtype == x.dtype else _cast_and_broadcast(x.shape, x.dtype, p)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cast_and_broadcast(shape: tuple[int, ...], dtype: jnp.dtype, p: jax.Array) -> jax.Array:
    return jnp.broadcast_to(p.astype(dtype), shape)


def _cast_and_broadcast_backward(_: tuple[int, ...], __: jnp.dtype, p: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    sizes = (1,) * (dy.ndim - p.ndim) + p.shape
    broadcast_axes = tuple(axis for axis, size in enumerate(sizes) if size != dy.shape[axis])
    return (jnp.sum(dy, axis=broadcast_axes, dtype=p.dtype).reshape(p.shape),)


_cast_and_broadcast.defvjp(
    lambda shape, dtype, p: (_cast_and_broadcast(shape, dtype, p), p), _cast_and_broadcast_backward
)


def round_to_dtype(p: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns a parameter rounded to the numbers of a dtype, but in its own format, for uses that take any format."""
    return p if p.dtype == dtype else _round_to_dtype(jnp.dtype(dtype), p)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _round_to_dtype(dtype: jnp.dtype, p: jax.Array) -> jax.Array:
    return p.astype(dtype).astype(p.dtype)


_round_to_dtype.defvjp(lambda dtype, p: (_round_to_dtype(dtype, p), None), lambda dtype, _, dy: (dy,))


def grouped_matmul(
    x_MD: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array, kernel: GroupedKernel = RAGGED_DOT
) -> jax.Array:
    """Multiplies rows of x, in E groups one after another, by their group's weight, (M, F); rows after them give 0."""
    if w_EDF.dtype == x_MD.dtype and kernel == RAGGED_DOT:
        return kernel.forward(x_MD, w_EDF, sizes_E)
    return _grouped_matmul(kernel, x_MD, w_EDF, sizes_E)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _grouped_matmul(kernel: GroupedKernel, x_MD: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    return kernel.forward(x_MD, w_EDF.astype(x_MD.dtype), sizes_E)


def _grouped_matmul_backward(
    kernel: GroupedKernel, residuals: tuple[jax.Array, ...], dy_MF: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    x_MD, w_EDF, sizes_E = residuals
    dx_MD = kernel.backward(dy_MF, w_EDF.astype(x_MD.dtype), sizes_E)
    return dx_MD, kernel.weight_gradient(x_MD, dy_MF, sizes_E, w_EDF.dtype), None


_grouped_matmul.defvjp(lambda kernel, *x: (_grouped_matmul(kernel, *x), x), _grouped_matmul_backward)
