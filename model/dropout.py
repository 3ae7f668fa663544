"""Dropout: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting"."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropout:
    """The probability that training zeroes an entry: of the embedding, attention weights, sublayers' outputs."""

    embedding: float = 0.0
    attention: float = 0.0
    residual: float = 0.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for name in ("embedding", "attention", "residual"):
            if not 0 <= getattr(self, name) < 1:
                yield name, f"must be at least 0 and below 1, got {getattr(self, name)}"


def drop(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes each entry with probability `rate` and divides the rest by 1 - rate; returns x itself without a key."""
    if key is None:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))
