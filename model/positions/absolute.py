"""Absolute positions, and the unions of all positions.

Learned and sinusoidal positions are added to the token embedding: Vaswani et al. 2017, "Attention Is All You Need",
section 3.5. Other positions act inside attention: rotary positions rotate queries and keys (rotary.py), biases are
added to scores (alibi.py, relative.py; bias.py has their common protocol).
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from model.parameters.maker import ParameterMaker
from model.parameters.mixed_precision import lookup
from model.positions.alibi import ALiBi
from model.positions.bias import AttentionPosition
from model.positions.option import PositionOption
from model.positions.relative import RelativeBias
from model.positions.rotary import Rotary, frequencies


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoPositions(AttentionPosition):
    """No positions: only the causal mask gives the order of tokens (Kazemnejad et al. 2023, "NoPE")."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learned(PositionOption):
    """A trained vector for each position up to the context length.

    Attributes:
      offset: the number of rows before the row of position 0, which no token uses (OPT: 2).
    """

    offset: int = 0

    adds_to_embedding: ClassVar[bool] = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.offset < 0:
            yield "offset", f"must be 0 or more, got {self.offset}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sinusoidal(PositionOption):
    """Fixed sines and cosines with wavelengths from 2 pi to theta * 2 pi tokens."""

    theta: float = 10_000.0

    adds_to_embedding: ClassVar[bool] = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.theta <= 0:
            yield "theta", f"must be above 0, got {self.theta}"

    def problems_of_width(self, width: int) -> Iterator[str]:
        """Yields why these positions cannot be added to a residual stream of this width."""
        if width % 2:
            yield f"Sinusoidal pairs a sine with a cosine, so width must be even, got {width}"


# Layer positions act inside attention, so layers may differ in them; the others are added before the first layer.
LayerPosition = NoPositions | Rotary | ALiBi | RelativeBias
Position = LayerPosition | Learned | Sinusoidal


def sinusoid(option: Sinusoidal, positions_BT: jax.Array, width: int) -> jax.Array:
    """Returns the vectors of Vaswani et al.: sine on even dimensions, cosine on odd dimensions; float32 (B, T, D)."""
    angles = positions_BT[..., None].astype(jnp.float32) * frequencies(option.theta, width)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*positions_BT.shape, width)


class PositionEmbedding(nnx.Module):
    """Adds position vectors to the token embedding, for options with `adds_to_embedding`."""

    def __init__(self, option: Position, context_length: int, width: int, make: ParameterMaker) -> None:
        """Args: the option, the number of positions, the model width, the maker."""
        self.option = option
        rows = context_length + option.offset if isinstance(option, Learned) else None
        self.table = None if rows is None else make.matrix("position", (rows, width), ("position", "embed"))

    def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array | None) -> jax.Array:
        """Returns the embedding with positions added, (B, T, D)."""
        assert positions_BT is not None
        if self.table is not None and isinstance(self.option, Learned):
            rows_BT = positions_BT + self.option.offset if self.option.offset else positions_BT
            return x_BTD + lookup(self.table[...], rows_BT, x_BTD.dtype)
        if isinstance(self.option, Sinusoidal):
            return x_BTD + sinusoid(self.option, positions_BT, x_BTD.shape[-1]).astype(x_BTD.dtype)
        return x_BTD
