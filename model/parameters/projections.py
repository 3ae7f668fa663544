"""Matrix products of activations with weights: all parts of the model call these functions.

Batch and position stay two axes, so that each may be split over devices: then a product gathers nothing, and only the
gradient of the weight is reduced. A CPU that splits neither axis uses other shapes (model/parameters/cpu_matmul.py).
"""

import functools
import string
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.layout import Layout
from model.parameters import cpu_matmul, quantized_matmul
from model.parameters.adapters import AdaptedMatrix
from model.parameters.mixed_precision import cast_like, weight_einsum
from model.parameters.quantized_products import quantized_einsum
from model.parameters.quantized_weights import MatrixLayout, QuantizedMatrix
from model.parameters.specs import Products


def project(
    x: jax.Array,
    weight: nnx.Param | QuantizedMatrix | AdaptedMatrix,
    layout: Layout,
    bias: nnx.Param | None = None,
    contract: int = 1,
) -> jax.Array:
    """Returns x @ weight [+ bias], contracted over the last `contract` axes of x and the first axes of the weight.

    Args:
      x: (..., *inputs).
      weight: (*inputs, *outputs).
      layout: how x is laid out on devices.
      bias: (*outputs), or None.
      contract: the number of input axes.

    Returns:
      (..., *outputs).
    """
    if isinstance(weight, AdaptedMatrix):
        y = _adapted(x, weight, layout, contract)
    elif isinstance(weight, QuantizedMatrix):
        y = matmul(x, weight, layout, contract)
    else:
        spec = weight.get_metadata().get("spec")  # None for a weight that no ParameterMaker made
        y = matmul(x, weight[...], layout, contract, products="compute" if spec is None else spec.products)
    return y if bias is None else y + cast_like(bias[...], y)


def _adapted(x: jax.Array, weight: AdaptedMatrix, layout: Layout, contract: int) -> jax.Array:
    """Returns x W + s (x A) B, times the factors of DoRA, in the dtype of x."""
    change = matmul(matmul(x, weight.lora_a[...], layout, contract), weight.lora_b[...], layout)
    y = project(x, weight.base, layout, contract=contract) + weight.scale * change
    factors = weight.output_factors()
    return y if factors is None else y * cast_like(factors, y)


def matmul(
    x: jax.Array,
    w: jax.Array | QuantizedMatrix,
    layout: Layout,
    contract: int = 1,
    dtype: jax.typing.DTypeLike | None = None,
    products: Products = "compute",
) -> jax.Array:
    """Returns x w, contracted over the last `contract` axes of x and the first of w; in `dtype`, or in that of x."""
    if isinstance(w, QuantizedMatrix):
        return _quantized_product(w.layout, layout, contract, dtype, x, w.values[...], w.scales[...])
    if products == "compute" and cpu_matmul.applies_to(layout):
        return cpu_matmul.matmul(x, w, contract, dtype)
    letters = iter(string.ascii_letters)
    lead, inputs, outputs = (
        "".join(next(letters) for _ in range(count)) for count in (x.ndim - contract, contract, w.ndim - contract)
    )
    spec = f"{lead}{inputs},{inputs}{outputs}->{lead}{outputs}"
    if products != "compute":
        return quantized_einsum(spec, x, w, products, dtype)
    return weight_einsum(spec, x, w, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _quantized_product(
    matrix: MatrixLayout,
    layout: Layout,
    contract: int,
    dtype: jax.typing.DTypeLike | None,
    x: jax.Array,
    values: jax.Array,
    scales: jax.Array,
) -> jax.Array:
    """Returns x w for the values and scales of a quantised matrix, which have no gradient.

    The backward pass makes the matrix in float32 again: kept from the forward pass, those of all layers would take the
    memory of the model before it was quantised.
    """
    w = QuantizedMatrix(values, scales, matrix)
    if quantized_matmul.is_in_integers(x, w, layout, contract):
        return quantized_matmul.integer_matmul(x, w, layout, contract, dtype)
    made = [matmul(x, block, layout, contract, dtype) for block in quantized_matmul.blocks(w, layout)]
    return made[0] if len(made) == 1 else jnp.concatenate(made, -1)


def _quantized_forward(
    matrix: MatrixLayout, layout: Layout, contract: int, dtype: jax.typing.DTypeLike | None, *arrays: jax.Array
) -> tuple[jax.Array, Any]:
    x, values, scales = arrays
    kept = jnp.zeros((), x.dtype), values, scales  # of x only its format
    return _quantized_product(matrix, layout, contract, dtype, x, values, scales), kept


def _quantized_backward(
    matrix: MatrixLayout,
    layout: Layout,
    contract: int,
    _: jax.typing.DTypeLike | None,
    residuals: tuple[jax.Array, ...],
    dy: jax.Array,
) -> tuple[jax.Array | None, ...]:
    like_x, values, scales = residuals
    w = QuantizedMatrix(values, scales, matrix)[...].astype(dy.dtype)
    outputs = len(matrix.shape) - contract
    turned = jnp.transpose(w, (*range(contract, w.ndim), *range(contract)))
    return matmul(dy, turned, layout, outputs).astype(like_x.dtype), None, None


_quantized_product.defvjp(_quantized_forward, _quantized_backward)
