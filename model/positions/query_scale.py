"""A factor on queries that grows with position, so that attention stays sharp where a query sees more keys.

A softmax over more keys spreads its weights; a factor that grows with the logarithm of the number of keys prevents
this: Nakanishi 2025, "Scalable-Softmax Is Superior for Attention", section 3. Llama 4's released code lets the factor
grow in steps, as here, in the layers without rotary positions.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogTemperature:
    """Multiplies a query at position p by 1 + scale * ln(1 + floor((p + offset) / `step_length`)).

    Attributes:
      step_length: the number of positions in a step; positions before the first step have factor 1 (Llama 4: 8192).
      scale: how much the factor grows (Llama 4: 0.1).
      offset: 1 counts the tokens up to the query itself (Llama 4), 0 those before it (Ministral 3).
    """

    step_length: int
    scale: float
    offset: int = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.step_length < 1:
            yield "step_length", f"must be at least 1, got {self.step_length}"
        if self.scale <= 0:
            yield "scale", f"must be above 0, got {self.scale}; use temperature=None for factors of 1"
        if self.offset < 0:
            yield "offset", f"must be 0 or more, got {self.offset}"

    def apply(self, q_BTNH: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """Returns the queries times their factors, computed in float32, in the shape and dtype of the queries."""
        steps_BT = ((positions_BT + self.offset) // self.step_length).astype(jnp.float32)
        factor_BT11 = (1 + self.scale * jnp.log1p(steps_BT))[:, :, None, None]
        return (q_BTNH.astype(jnp.float32) * factor_BT11).astype(q_BTNH.dtype)
