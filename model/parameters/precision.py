"""Number formats: the one place that decides dtypes."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp

from model.parameters import quantized_products
from model.parameters.quantized_weights import QuantizedWeights
from model.parameters.specs import Products, Spec

Dtype = Literal["float32", "bfloat16"]  # float16 would need loss scaling


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision:
    """The formats of stored parameters, of matrix products and activations, of sensitive reductions, and of gradients.

    `reductions` applies to norms, attention softmax, logits, the loss, and the gates and memories of recurrent mixers;
    routing to experts is always float32, and so is the state that a recurrent mixer carries from one pass to the next.
    `gradients` is the format in which gradients of parameters are computed, summed over tokens and reduced across
    devices; bfloat16 halves the bytes that devices send each other, and rounds partial sums. In the end gradients are
    cast to the format `parameters`, which the optimizer's moments have too; in bfloat16, parameters and moments lose
    small updates (train/optimizers/rounding.py). `products` is the format of the factors of products with the matrices
    inside the layers: "compute", or 8 bits (model/parameters/quantized_products.py); embedding, unembedding, routing
    and attention never have 8 bits. `weights` is the format of the matrices of a model for inference alone, as
    `launch.convert --quantize` writes it (model/parameters/quantized_weights.py). JAX decides how a device multiplies
    two float32 matrices: TPUs and recent GPUs round the factors to fewer bits unless
    `JAX_DEFAULT_MATMUL_PRECISION=highest` is in the environment.
    """

    parameters: Dtype = "float32"
    compute: Dtype = "float32"
    reductions: Dtype = "float32"
    gradients: Dtype = "float32"
    products: Products = "compute"
    weights: QuantizedWeights | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.compute == "float32" != self.gradients:
            yield "gradients", f"{self.gradients} is narrower than compute={self.compute}; use 'float32'"
        if self.products != "compute" and not quantized_products.is_installed():
            yield "products", f"'{self.products}' needs the library qwix: {quantized_products.INSTALL}"
        if self.products != "compute" and self.weights is not None:
            yield "products", f"'{self.products}' is for training, and weights are quantised already; use 'compute'"


def for_compute(params: Any, specs: Any, precision: Precision) -> Any:
    """Returns parameters in the format of their gradients, which flow back through the cast; each use rounds them.

    Parameters whose role asks for float32 stay float32 in each use. Matrices that adapters freeze have no gradients.
    """
    return _cast(params, specs, precision.gradients, precision.compute)


STACKED = ("blocks", "multi_token")  # parameters with a leading axis of layers or depths


def outside_of_layers(params: dict[str, Any], specs: dict[str, Any], precision: Precision) -> dict[str, Any]:
    """Returns the parameters of a model, of which those outside of layers are as `for_compute` returns them.

    Those of layers are cast later, layer by layer.
    """

    def part(name: str) -> Any:
        if name in STACKED:
            return params[name]
        if name == "encoder":  # has layers of its own
            return outside_of_layers(params[name], specs[name], precision)
        return for_compute(params[name], specs[name], precision)

    return {name: part(name) for name in params}


def for_inference(params: Any, specs: Any, precision: Precision) -> Any:
    """Returns parameters rounded once to the formats of their use; they need no gradients."""
    return _cast(params, specs, precision.compute, precision.compute)


def _cast(params: Any, specs: Any, dtype: Dtype, of_frozen: Dtype) -> Any:
    def cast(p: jax.Array, spec: Spec) -> jax.Array:
        if spec.format != "float":
            return p
        format_ = of_frozen if spec.frozen and spec.is_hidden_matrix else dtype
        return p.astype(format_ if spec.traits.compute_dtype == "compute" else jnp.float32)

    return jax.tree.map(cast, params, specs)
