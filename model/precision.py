"""Which number format is used where: the one place that decides dtypes."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

Dtype = Literal["float32", "bfloat16"]  # float16 would need loss scaling


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision:
    """The formats of stored parameters, of matrix products and activations, and of sensitive reductions.

    `reductions` holds for norms, attention softmax, logits and the loss. Optimizer moments follow `parameters`. How a
    device multiplies two float32 matrices is jax's choice: TPUs and recent GPUs round the factors to fewer bits unless
    `JAX_DEFAULT_MATMUL_PRECISION=highest` is in the environment.
    """

    parameters: Dtype = "float32"
    compute: Dtype = "float32"
    reductions: Dtype = "float32"


def for_compute(params: Any, precision: Precision) -> Any:
    """The parameters as the forward pass uses them; gradients flow back through the cast."""
    dtype = jnp.dtype(precision.compute)
    return jax.tree.map(lambda p: p.astype(dtype), params)
