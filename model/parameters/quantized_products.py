"""Matrix products of activations with weights in 8 bits, for training; parameters stay as they are.

Each factor is divided by its largest magnitude along the axes that the product contracts: a scale for each token of an
activation, and for each output of a weight. So the forward pass is y = s_x s_w (x / s_x) (w / s_w), with both quotients
rounded to 8 bits, and sums in int32 or float32. The gradient of the activation is such a product too, of rounded
gradients and weights. The gradient of the weight, which adds up many small numbers, is computed as without this option.

- "int8": 8-bit integers (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
  Integer-Arithmetic-Only Inference", without offsets).
- "float8": E4M3 for activations and weights, E5M2 for gradients (Micikevicius et al. 2022, "FP8 Formats for Deep
  Learning", section 3).

The arithmetic is that of the library qwix (extra `quantized`).
"""

import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from model.parameters.mixed_precision import WEIGHT_PRODUCT
from model.parameters.specs import Products

INSTALL = "pip install -e '.[quantized]'"
# The formats of values and of gradients.
FORMATS = {"int8": (jnp.int8, jnp.int8), "float8": (jnp.float8_e4m3fn, jnp.float8_e5m2)}
# The largest magnitude becomes 127. The library's own 127.5 lies between two integers, so that it would depend on the
# last bit of a scale, which differs between programs.
_CALIBRATION = {jnp.int8: f"absmax,{127.5 / 127!r}"}


@functools.cache
def is_installed() -> bool:
    """Whether qwix can be imported; it is imported only where a model uses it."""
    return importlib.util.find_spec("qwix") is not None


def quantized_einsum(
    spec: str, x: jax.Array, w: jax.Array, products: Products, dtype: jax.typing.DTypeLike | None = None
) -> jax.Array:
    """Returns the einsum of activations and a weight in 8 bits, in `dtype`, or in the dtype of x.

    Args:
      spec: as of `model.parameters.mixed_precision.weight_einsum`.
      x, w: the factors; x has the compute format, and w that of gradients.
      products: "int8" or "float8".
      dtype: of the result.
    """
    return checkpoint_name(_quantized_einsum(spec, products, dtype or x.dtype, x, w), WEIGHT_PRODUCT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _quantized_einsum(
    spec: str, products: Products, dtype: jax.typing.DTypeLike, x: jax.Array, w: jax.Array
) -> jax.Array:
    value, _ = FORMATS[products]
    return _einsum(spec, (x, value), (w, value)).astype(dtype)


def _forward(spec: str, products: Products, dtype: jax.typing.DTypeLike, x: jax.Array, w: jax.Array) -> Any:
    return _quantized_einsum(spec, products, dtype, x, w), (x, w)


def _backward(
    spec: str, products: Products, _: jax.typing.DTypeLike, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = residuals
    value, gradient = FORMATS[products]
    inputs, outputs = spec.split("->")
    x_axes, w_axes = inputs.split(",")
    dx = _einsum(f"{outputs},{w_axes}->{x_axes}", (dy, gradient), (w, value)).astype(x.dtype)
    dw = jnp.einsum(f"{x_axes},{outputs}->{w_axes}", x.astype(dy.dtype), dy, preferred_element_type=w.dtype)
    return dx, dw


_quantized_einsum.defvjp(_forward, _backward)


def _einsum(spec: str, left: tuple[jax.Array, Any], right: tuple[jax.Array, Any]) -> jax.Array:
    """The einsum of two arrays, each in a format of 8 bits with a scale for each index that it does not contract."""
    import qwix

    inputs, outputs = spec.split("->")
    factors = [
        qwix.quantize(
            array.astype(jnp.float32),
            dtype,
            channelwise_axes=[n for n, letter in enumerate(letters) if letter in outputs],
            calibration_method=_CALIBRATION.get(dtype, "absmax"),
        )
        for letters, (array, dtype) in zip(inputs.split(","), (left, right), strict=True)
    ]
    y: jax.Array = qwix.einsum(spec, *factors, preferred_element_type=jnp.float32)
    return y
