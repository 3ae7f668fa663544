"""Normalisation: LayerNorm and RMSNorm.

Ba, Kiros, Hinton 2016, "Layer Normalization", equation 4; Zhang, Sennrich 2019, "Root Mean Square Layer
Normalization", equation 4. Statistics are taken in the reduction dtype, whatever the activations are.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from model.initialization import ParameterMaker


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerNorm:
    """(x - mean) / sqrt(variance + epsilon) * scale [+ bias]."""

    epsilon: float = 1e-5
    bias: bool = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        if self.epsilon <= 0:
            yield "epsilon", f"must be above 0, got {self.epsilon}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RMSNorm:
    """x / sqrt(mean(x^2) + epsilon) * scale."""

    epsilon: float = 1e-6

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        if self.epsilon <= 0:
            yield "epsilon", f"must be above 0, got {self.epsilon}"


class Norm(nnx.Module):
    """Normalises the last axis of its input."""

    def __init__(
        self, option: LayerNorm | RMSNorm, width: int, make: ParameterMaker, reductions: str, axis: str = "embed"
    ) -> None:
        """Args: the option, the size and the logical name of the last axis, the maker, the reduction dtype."""
        self.option = option
        self.reductions = reductions
        self.scale = make.ones((width,), (axis,))
        self.bias = make.zeros((width,), (axis,)) if isinstance(option, LayerNorm) and option.bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises (..., width) to the same shape and dtype."""
        y = x.astype(self.reductions)
        if isinstance(self.option, LayerNorm):
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.option.epsilon)
        y = y * self.scale[...].astype(y.dtype)
        if self.bias is not None:
            y = y + self.bias[...].astype(y.dtype)
        return y.astype(x.dtype)
