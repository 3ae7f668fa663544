"""JumpReLU: a feature fires above a threshold of its own, which straight-through estimators train."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.inspection.features.autoencoders.interface import (
    Inputs,
    Loss,
    Params,
    Penalized,
    Published,
    decode,
    pre_activations,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JumpReLU(Penalized):
    """Rajamanoharan et al. 2024, "Jumping Ahead: ... JumpReLU Sparse Autoencoders", equations 5 to 12.

        z = W_enc (x - b_dec) + b_enc      f = z H(z - theta)      loss = |x - y|^2 + l0 sum_i H(z_i - theta_i)

    H is the step function and theta > 0. Neither f nor the penalty has a derivative in theta almost everywhere; the
    estimated ones, of the expected loss, are -theta / bandwidth K((z - theta) / bandwidth) and
    -1 / bandwidth K((z - theta) / bandwidth), with the rectangle K(u) = H(u + 1/2) - H(u - 1/2).

    Attributes:
      l0: the coefficient of the penalty.
      warmup_steps: steps over which it grows from 0.
      threshold: theta at the start.
      bandwidth: the width of the rectangle.
    """

    l0: float = 1.0
    threshold: float = 0.03
    bandwidth: float = 0.03

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from super().problems()
        if self.l0 < 0:
            yield "l0", f"must be 0 or more, got {self.l0}"
        for name in ("threshold", "bandwidth"):
            if getattr(self, name) <= 0:
                yield name, f"must be above 0, got {getattr(self, name)}"

    def own_parameters(self, width: int) -> Params:
        """See `Architecture`."""
        return super().own_parameters(width) | {"log_threshold": jnp.full(width, math.log(self.threshold), jnp.float32)}

    def encode(self, params: Params, x_BD: jax.Array) -> jax.Array:
        """See `Architecture`."""
        return jump_relu(pre_activations(params, x_BD), jnp.exp(params["log_threshold"]), self.bandwidth)

    def loss(self, params: Params, inputs: Inputs, dead_M: jax.Array, step: jax.Array) -> Loss:
        """See `Architecture`."""
        z_BM, threshold_M = pre_activations(params, inputs.x_BD), jnp.exp(params["log_threshold"])
        f_BM = jump_relu(z_BM, threshold_M, self.bandwidth)
        y_BO = decode(params, f_BM)
        count_B = jnp.sum(heaviside(z_BM, threshold_M, self.bandwidth), axis=-1)
        terms = {
            "reconstruction": inputs.mean_square(y_BO),
            "penalty": self.l0 * self.strength(step) * inputs.mean(count_B),
        }
        return Loss(sum(terms.values(), start=jnp.float32(0)), f_BM, y_BO, terms)

    def published(self, params: dict[str, np.ndarray]) -> Published:
        """See `Architecture`."""
        return Published(
            "jumprelu", {}, {"b_enc": params["encoder_bias"], "threshold": np.exp(params["log_threshold"])}
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def jump_relu(z_BM: jax.Array, threshold_M: jax.Array, bandwidth: float) -> jax.Array:
    """z H(z - theta), with the estimated derivative in theta."""
    return jnp.where(z_BM > threshold_M, z_BM, 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def heaviside(z_BM: jax.Array, threshold_M: jax.Array, bandwidth: float) -> jax.Array:
    """H(z - theta), with the estimated derivative in theta and none in z."""
    return (z_BM > threshold_M).astype(z_BM.dtype)


def _rectangle(z_BM: jax.Array, threshold_M: jax.Array, bandwidth: float) -> jax.Array:
    return (jnp.abs(z_BM - threshold_M) < bandwidth / 2).astype(z_BM.dtype)


def _forward(function: Any) -> Any:
    return lambda z_BM, threshold_M, bandwidth: (function(z_BM, threshold_M, bandwidth), (z_BM, threshold_M))


def _jump_relu_backward(bandwidth: float, kept: Any, grad_BM: jax.Array) -> tuple[jax.Array, jax.Array]:
    z_BM, threshold_M = kept
    near_BM = _rectangle(z_BM, threshold_M, bandwidth)
    return grad_BM * (z_BM > threshold_M), -threshold_M / bandwidth * jnp.sum(near_BM * grad_BM, axis=0)


def _heaviside_backward(bandwidth: float, kept: Any, grad_BM: jax.Array) -> tuple[jax.Array, jax.Array]:
    z_BM, threshold_M = kept
    near_BM = _rectangle(z_BM, threshold_M, bandwidth)
    return jnp.zeros_like(grad_BM), -jnp.sum(near_BM * grad_BM, axis=0) / bandwidth


jump_relu.defvjp(_forward(jump_relu), _jump_relu_backward)
heaviside.defvjp(_forward(heaviside), _heaviside_backward)
