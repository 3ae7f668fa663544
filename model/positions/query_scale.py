"""Queries that grow with position: sharper attention where there are more keys to choose among.

A softmax over more keys spreads its weights; a factor that grows with the logarithm of their number holds them:
Nakanishi 2025, "Scalable-Softmax Is Superior for Attention", section 3. In steps, as here, it is Llama 4's, by its
released code, in the layers that have no rotary positions.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogTemperature:
    """A query at position p is multiplied by 1 + scale * ln(1 + floor((p + 1) / `floor`)).

    Attributes:
      floor: how many positions make a step; those before the first one have factor 1 (Llama 4: 8192).
      scale: how much the factor grows (Llama 4: 0.1).
    """

    floor: int
    scale: float

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        if self.floor < 1:
            yield "floor", f"must be at least 1, got {self.floor}"
        if self.scale <= 0:
            yield "scale", f"must be above 0, or temperature=None for factors of 1, got {self.scale}"

    def apply(self, q_BTNH: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """The queries times their factors, in float32; the same shape and dtype come back."""
        steps_BT = ((positions_BT + 1) // self.floor).astype(jnp.float32)
        factor_BT11 = (1 + self.scale * jnp.log1p(steps_BT))[:, :, None, None]
        return (q_BTNH.astype(jnp.float32) * factor_BT11).astype(q_BTNH.dtype)
