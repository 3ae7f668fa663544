"""Matrix products of activations with weights, the one way they are written.

Both sides are flattened to matrices first, so that the product and the two products of its gradient each contract a
single axis. Compilers read such products as they lie in memory; a weight gradient that contracts batch and position as
two axes is copied first on a CPU (measured: tests/benchmarks/README.md).
"""

import math

import jax
from flax import nnx


def project(x: jax.Array, weight: nnx.Param, bias: nnx.Param | None = None, contract: int = 1) -> jax.Array:
    """x @ weight [+ bias], over the last `contract` axes of x and the first of the weight.

    Args:
      x: (..., *inputs).
      weight: (*inputs, *outputs).
      bias: (*outputs), or None.
      contract: how many axes the inputs have.

    Returns:
      (..., *outputs).
    """
    w = weight[...]
    lead, outputs = x.shape[: x.ndim - contract], w.shape[contract:]
    inner = math.prod(w.shape[:contract])
    y = x.reshape(-1, inner) @ w.reshape(inner, -1)
    y = y.reshape(*lead, *outputs)
    return y if bias is None else y + bias[...]
