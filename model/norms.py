"""Normalisation: LayerNorm and RMSNorm.

Ba, Kiros, Hinton 2016, "Layer Normalization", equation 4; Zhang, Sennrich 2019, "Root Mean Square Layer
Normalization", equation 4. Statistics are computed in the reduction dtype, for activations of any dtype.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from model.parameters.maker import ParameterMaker
from model.parameters.mixed_precision import cast_like
from model.recompute import recomputed


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerNorm:
    """(x - mean) / sqrt(variance + epsilon) [* scale] [+ bias]; without both it has no parameters (OLMo)."""

    epsilon: float = 1e-5
    scale: bool = True
    bias: bool = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.epsilon <= 0:
            yield "epsilon", f"must be above 0, got {self.epsilon}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RMSNorm:
    """x / sqrt(mean(x^2) + epsilon) [* scale].

    Attributes:
      epsilon: as in the equation.
      scale: "one" is a trained scale that starts at 1; "zero" is 1 + a trained weight that starts at 0 (Gemma), so that
        weight decay pulls the scale towards 1; "none" has no parameters.
    """

    epsilon: float = 1e-6
    scale: Literal["one", "zero", "none"] = "one"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.epsilon <= 0:
            yield "epsilon", f"must be above 0, got {self.epsilon}"


def has_weights(option: LayerNorm | RMSNorm) -> bool:
    """Returns whether a norm has parameters."""
    return option.scale not in (False, "none") or (isinstance(option, LayerNorm) and option.bias)


class Norm(nnx.Module):
    """A norm with its weights."""

    def __init__(
        self,
        option: LayerNorm | RMSNorm,
        shape: tuple[int, ...],
        axes: tuple[str | None, ...],
        make: ParameterMaker,
        reductions: str,
        num_axes: int = 1,
    ) -> None:
        """Args: the option, shape and axis names of the weights, the maker, the reduction dtype, how many last axes."""
        self.option = option
        self.reductions = reductions
        self.num_axes = num_axes
        start = 0.0 if option.scale == "zero" else 1.0
        self.scale = make.constant("scale", start, shape, axes) if option.scale not in (False, "none") else None
        self.bias = make.zeros(shape, axes) if isinstance(option, LayerNorm) and option.bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises the last `num_axes` axes of x; returns the same shape and dtype."""
        scale, bias = (None if weight is None else weight[...] for weight in (self.scale, self.bias))
        return recomputed(functools.partial(normalize, self.option, self.reductions, self.num_axes))(x, scale, bias)


def new_norm(width: int, make: ParameterMaker, reductions: str, option: LayerNorm | RMSNorm | None) -> Norm | None:
    """Returns a norm of the stream; None for None."""
    return None if option is None else Norm(option, (width,), ("embed",), make, reductions)


def normalize(
    option: LayerNorm | RMSNorm,
    reductions: str,
    num_axes: int,
    x: jax.Array,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    divisor_of: jax.Array | None = None,
) -> jax.Array:
    """Computes the equations above, over the last `num_axes` axes of x.

    `divisor_of` is another input whose divisor divides x: without a bias the norm is then linear in x.
    """
    axes = tuple(range(-num_axes, 0))

    def centred(x: jax.Array) -> jax.Array:
        y = x.astype(reductions)
        return y - jnp.mean(y, axis=axes, keepdims=True) if isinstance(option, LayerNorm) else y

    y = centred(x)
    z = y if divisor_of is None else centred(divisor_of)
    y = y * jax.lax.rsqrt(jnp.mean(z * z, axis=axes, keepdims=True) + option.epsilon)
    if scale is not None:
        factor = cast_like(scale, x).astype(reductions)
        y = y * (1 + factor if isinstance(option, RMSNorm) and option.scale == "zero" else factor)
    return (y if bias is None else y + cast_like(bias, x).astype(reductions)).astype(x.dtype)
