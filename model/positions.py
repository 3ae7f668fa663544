"""How a token knows where it stands: no positions, learned, sinusoidal, rotary.

Learned and sinusoidal vectors are added to the token embedding; rotary positions turn queries and keys.
Vaswani et al. 2017, "Attention Is All You Need", section 3.5. Su et al. 2021, "RoFormer: Enhanced Transformer with
Rotary Position Embedding", equation 34, in the half-split pairing of GPT-NeoX: dimension i turns with i + H/2.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from model.initialization import ParameterMaker


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoPositions:
    """Only the causal mask tells the order (Kazemnejad et al. 2023, "NoPE")."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learned:
    """A trained vector for each position up to the context length."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sinusoidal:
    """Fixed sines and cosines, wavelengths from 2 pi to theta * 2 pi."""

    theta: float = 10_000.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        if self.theta <= 0:
            yield "theta", f"must be above 0, got {self.theta}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotary:
    """Queries and keys turned by angles that grow with position; theta is the base of the wavelengths."""

    theta: float = 10_000.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        if self.theta <= 0:
            yield "theta", f"must be above 0, got {self.theta}"


Position = NoPositions | Learned | Sinusoidal | Rotary


def frequencies(theta: float, size: int) -> jax.Array:
    """The angle per position of each pair of dimensions: theta^(-2i/size), float32, (size/2,)."""
    return theta ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)


def rotary_table(option: Position, positions_BT: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array] | None:
    """Cosines and sines for `rotate`, float32, each (B, T, 1, H/2); None when positions are not rotary."""
    if not isinstance(option, Rotary):
        return None
    angles_BTH = positions_BT[..., None].astype(jnp.float32) * frequencies(option.theta, head_dim)
    return jnp.cos(angles_BTH)[:, :, None, :], jnp.sin(angles_BTH)[:, :, None, :]


def rotate(x_BTNH: jax.Array, table: tuple[jax.Array, jax.Array] | None) -> jax.Array:
    """Turns each pair (x_i, x_{i+H/2}) by its angle, in float32; the same shape and dtype come back."""
    if table is None:
        return x_BTNH
    cos, sin = table
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BTNH.dtype)


def sinusoid(option: Sinusoidal, positions_BT: jax.Array, width: int) -> jax.Array:
    """The vectors of Vaswani et al.: sine on even dimensions, cosine on odd ones; float32 (B, T, D)."""
    angles = positions_BT[..., None].astype(jnp.float32) * frequencies(option.theta, width)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*positions_BT.shape, width)


class PositionEmbedding(nnx.Module):
    """Adds the position vector to the token embedding, where the option has one."""

    def __init__(self, option: Position, context_length: int, width: int, make: ParameterMaker) -> None:
        """Args: the option, the number of positions, the model width, the maker."""
        self.option = option
        learned = isinstance(option, Learned)
        self.table = make.matrix("position", (context_length, width), ("position", "embed")) if learned else None

    def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """Returns the embedding with positions added, (B, T, D)."""
        if self.table is not None:
            return x_BTD + self.table[...][positions_BT]
        if isinstance(self.option, Sinusoidal):
            return x_BTD + sinusoid(self.option, positions_BT, x_BTD.shape[-1]).astype(x_BTD.dtype)
        return x_BTD
