"""Which number format is used where: the one place that decides dtypes."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from model.specs import Spec

Dtype = Literal["float32", "bfloat16"]  # float16 would need loss scaling


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision:
    """The formats of stored parameters, of matrix products and activations, and of sensitive reductions.

    `reductions` holds for norms, attention softmax, logits, the loss, and the gates and memories of recurrent mixers;
    routing to experts is always float32, and so is what a recurrent mixer carries from one pass to the next.
    Optimizer moments follow `parameters`, which as bfloat16 lose small updates (train/optimizers/rounding.py).
    How a device multiplies two float32 matrices is jax's choice: TPUs and recent GPUs round the factors to fewer bits
    unless `JAX_DEFAULT_MATMUL_PRECISION=highest` is in the environment.
    """

    parameters: Dtype = "float32"
    compute: Dtype = "float32"
    reductions: Dtype = "float32"


def for_compute(params: Any, specs: Any, precision: Precision) -> Any:
    """The parameters as the forward pass uses them, by their specs; gradients flow back through the cast."""

    def cast(p: jax.Array, spec: Spec) -> jax.Array:
        return p.astype(precision.compute if spec.traits.used == "compute" else jnp.float32)

    return jax.tree.map(cast, params, specs)
