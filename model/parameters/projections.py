"""Matrix products of activations with weights: all parts of the model call these functions.

Batch and position stay two axes, so that each may be split over devices: then a product gathers nothing, and only the
gradient of the weight is reduced. A CPU that splits neither axis uses other shapes (model/parameters/cpu_matmul.py).
"""

import string

import jax
import jax.numpy as jnp
from flax import nnx

from model.layout import Layout
from model.parameters import cpu_matmul, quantized_matmul
from model.parameters.mixed_precision import cast_like, weight_einsum
from model.parameters.quantized_products import quantized_einsum
from model.parameters.quantized_weights import QuantizedMatrix
from model.parameters.specs import Products


def project(
    x: jax.Array,
    weight: nnx.Param | QuantizedMatrix,
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
    if isinstance(weight, QuantizedMatrix):
        y = matmul(x, weight, layout, contract)
    else:
        spec = weight.get_metadata().get("spec")  # None for a weight that no ParameterMaker made
        y = matmul(x, weight[...], layout, contract, products="compute" if spec is None else spec.products)
    return y if bias is None else y + cast_like(bias[...], y)


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
        if quantized_matmul.is_in_integers(x, w, layout, contract):
            return quantized_matmul.integer_matmul(x, w, layout, contract, dtype)
        made = [matmul(x, block, layout, contract, dtype) for block in quantized_matmul.blocks(w, layout)]
        return made[0] if len(made) == 1 else jnp.concatenate(made, -1)
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
