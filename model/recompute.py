"""Cheap functions whose backward pass starts again from their inputs.

Automatic differentiation keeps every intermediate that a derivative needs: four arrays for one exact GELU. Writing and
reading them costs more than computing them again, on every kind of device (measured on a CPU:
tests/benchmarks/README.md). Unlike `jax.checkpoint` this leaves no barrier that keeps a compiler from fusing.
"""

from collections.abc import Callable
from typing import Any

import jax


def recomputed(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The same function of arrays, with the same derivative, keeping nothing but its inputs for the backward pass."""

    @jax.custom_vjp
    def same(*inputs: jax.Array) -> jax.Array:
        return function(*inputs)

    def forward(*inputs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return function(*inputs), inputs

    def backward(inputs: tuple[jax.Array, ...], cotangent: jax.Array) -> tuple[Any, ...]:
        return jax.vjp(function, *inputs)[1](cotangent)

    same.defvjp(forward, backward)
    return same
