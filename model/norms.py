"""Normalisation: LayerNorm and RMSNorm.

Ba, Kiros, Hinton 2016, "Layer Normalization", equation 4; Zhang, Sennrich 2019, "Root Mean Square Layer
Normalization", equation 4. Statistics are taken in the reduction dtype, whatever the activations are.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from model.initialization import ParameterMaker
from model.recompute import recomputed


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
        weights = [self.scale[...]] if self.bias is None else [self.scale[...], self.bias[...]]
        return recomputed(functools.partial(normalize, self.option, self.reductions))(x, *weights)


def normalize(
    option: LayerNorm | RMSNorm, reductions: str, x: jax.Array, scale: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """The equations above, over the last axis of x."""
    y = x.astype(reductions)
    if isinstance(option, LayerNorm):
        y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + option.epsilon)
    y = y * scale.astype(reductions)
    return (y if bias is None else y + bias.astype(reductions)).astype(x.dtype)
