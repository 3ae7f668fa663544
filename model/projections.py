"""Matrix products of activations with weights, the one way they are written.

Both sides are flattened to matrices first, so that the product and the two products of its gradient each contract a
single axis. Compilers read such products as they lie in memory; a weight gradient that contracts batch and position as
two axes is copied first on a CPU (measured: tests/benchmarks/README.md).

The gradient of a weight is a product too, and a CPU takes up to twice the time for one of 512 x 128 as for one of
128 x 512, though either is the other transposed. So it is formed with the shorter axis in front, and then turned.
"""

import math

import jax
import jax.numpy as jnp
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
    y = matmul(x.reshape(-1, inner), w.reshape(inner, -1))
    y = y.reshape(*lead, *outputs)
    return y if bias is None else y + bias[...]


def matmul(x_MK: jax.Array, w_KN: jax.Array, dtype: jax.typing.DTypeLike | None = None) -> jax.Array:
    """x w, (M, N), accumulated in a dtype; see above for what is done about its gradient."""
    k, n = w_KN.shape
    if k > n:
        return jnp.einsum("MK,NK->MN", x_MK, _formed(w_KN.T), preferred_element_type=dtype)
    return jnp.einsum("MK,KN->MN", x_MK, _formed(w_KN), preferred_element_type=dtype)


@jax.custom_vjp
def _formed(w: jax.Array) -> jax.Array:
    """Nothing; but on a CPU its gradient is formed in the shape it has here, whatever transposes follow."""
    return w


def _as_formed(_: None, dw: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.platform_dependent(dw, cpu=jax.lax.optimization_barrier, default=lambda dw: dw),)


_formed.defvjp(lambda w: (w, None), _as_formed)
