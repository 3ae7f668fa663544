"""Which number format is used where: the one place that decides dtypes."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

# Parameters that stay float32 in the forward pass: near ties between experts must not hang on rounding.
ROUTING = ("router", "router_bias", "load_bias")
# So must these: the error of a decay is compounded at every token.
DECAYS = ("decay_rate", "decay_bias")

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


def for_compute(params: Any, precision: Precision) -> Any:
    """The parameters as the forward pass uses them; gradients flow back through the cast."""
    dtype = jnp.dtype(precision.compute)

    def cast(path: Any, p: jax.Array) -> jax.Array:
        return p.astype(jnp.float32 if path[-1].key in ROUTING + DECAYS else dtype)

    return jax.tree_util.tree_map_with_path(cast, params)
