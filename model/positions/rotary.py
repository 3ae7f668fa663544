"""Rotary position embeddings (RoPE): rotate pairs of dimensions of queries and keys by angles that grow with position.

Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", equations 15 and 34.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from model.positions.bias import AttentionPosition
from model.positions.scaling import NTK, DocumentLengths, DynamicNTK, LongRoPE, Scaling, YaRN, document_lengths


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotary(AttentionPosition):
    """Rotates queries and keys by angles that grow with position, so that a score depends on the distance.

    Attributes:
      theta: the base of the wavelengths, which go from 2 pi to nearly theta * 2 pi tokens.
      fraction: the share of a head's dimensions that are rotated; the others carry no position (Black et al. 2022,
        "GPT-NeoX-20B", section 2.1.1; also GPT-J, Pythia, Phi, GLM).
      rotated: which dimensions these are: the "first", as if they were a whole head, or those of the "fastest" pairs
        of the whole head, whose wavelengths stay those of `fraction=1` (Gemma 4).
      interleaved: whether dimension 2i pairs with 2i + 1 (RoFormer, GPT-J, GLM, Cohere), or i with i + R/2, where R
        dimensions are rotated, and with i + H/2 for the "fastest" pairs of a head of width H (GPT-NeoX, Llama). A fixed
        permutation of a head's dimensions changes one into the other.
      scaling: adapts a model trained on short sequences to longer sequences; see model/positions/scaling.py.
    """

    theta: float = 10_000.0
    fraction: float = 1.0
    rotated: Literal["first", "fastest"] = "first"
    interleaved: bool = False
    scaling: Scaling | None = None

    rotates: ClassVar[bool] = True

    @property
    def reads_lengths(self) -> bool:
        """See `PositionOption`."""
        return isinstance(self.scaling, DynamicNTK | LongRoPE)

    def changes_at(self, length: int) -> bool:
        """See `PositionOption`."""
        return isinstance(self.scaling, DynamicNTK | LongRoPE) and self.scaling.changes_at(length)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.theta <= 0:
            yield "theta", f"must be above 0, got {self.theta}"
        elif self.theta <= 1 and isinstance(self.scaling, YaRN):
            yield "theta", f"must be above 1 for YaRN, which takes its logarithm, got {self.theta}"
        if not 0 < self.fraction <= 1:
            yield "fraction", f"must be above 0 and at most 1, got {self.fraction}; use NoPositions to rotate nothing"
        if self.rotated == "fastest" and self.fraction == 1:
            yield "rotated", "all pairs rotate with fraction=1; set 'first', or a smaller fraction"

    def rotated_dims(self, head_dim: int) -> int:
        """Returns R, the number of rotated dimensions of a head."""
        return round(self.fraction * head_dim)

    def paired_dims(self, head_dim: int) -> int:
        """Returns how many dimensions of a head are paired with each other; not all of the pairs may rotate."""
        return head_dim if self.rotated == "fastest" else self.rotated_dims(head_dim)

    def problems_with(self, head_dim: int, path: str) -> Iterator[tuple[str, str]]:
        """Yields fields that clash with heads of width `head_dim`, by path; `path` is the path of this option."""
        if not 0 < self.fraction <= 1 or head_dim < 1:
            return
        size = self.rotated_dims(head_dim)
        if (self.fraction == 1 or self.rotated == "fastest") and head_dim % 2:
            yield path, f"Rotary rotates pairs of dimensions, so the head width must be even, got {head_dim}"
        elif size < 2 or size % 2 or abs(self.fraction * head_dim - size) > 1e-6:
            yield (
                f"{path}.fraction",
                f"{self.fraction} rotates {self.fraction * head_dim:g} of the {head_dim} dimensions of a head; "
                "they rotate in pairs, so this must be an even whole number",
            )
        elif isinstance(self.scaling, NTK | DynamicNTK) and self.paired_dims(head_dim) == 2:
            name = type(self.scaling).__name__
            yield f"{path}.scaling", f"{name} needs at least two pairs of rotated dimensions, got one"
        elif isinstance(self.scaling, LongRoPE):
            pairs = self.paired_dims(head_dim) // 2
            for name in ("short_factors", "long_factors"):
                if len(getattr(self.scaling, name)) != pairs:
                    yield (
                        f"{path}.scaling.{name}",
                        f"must have {pairs} factors, one for each pair of rotated dimensions, got "
                        f"{len(getattr(self.scaling, name))}",
                    )


@struct.dataclass
class RotaryTable:
    """The cosines and sines that `rotate` needs.

    Attributes:
      cos, sin: float32, (B, T, 1, R/2) for R paired dimensions of a head; pairs that do not rotate have 1 and 0.
      interleaved: as in `Rotary`.
    """

    cos: jax.Array
    sin: jax.Array
    interleaved: bool = struct.field(pytree_node=False, default=False)


def frequencies(theta: float, size: int) -> jax.Array:
    """Returns the angle per position of each pair of dimensions: theta^(-2i/size), float32, (size/2,)."""
    return theta ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)


def rotary_table(
    option: object, positions_BT: jax.Array, head_dim: int, lengths: DocumentLengths | None = None
) -> RotaryTable | None:
    """Returns cosines and sines for `rotate`; None when positions are not rotary.

    Args:
      option: the option of positions.
      positions_BT: the positions of the tokens.
      head_dim: the number of dimensions of a head that positions may rotate.
      lengths: gives the length of each token's document, for scalings that depend on it; the last position of a row
        when not given.
    """
    if not isinstance(option, Rotary):
        return None
    size, scaling = option.paired_dims(head_dim), option.scaling
    if lengths is None:
        lengths = lambda: document_lengths(positions_BT, None, positions_BT.shape[1])  # noqa: E731
    angles_BTR = positions_BT[..., None].astype(jnp.float32)
    if scaling is None:
        angles_BTR *= frequencies(option.theta, size)
    else:
        angles_BTR *= scaling.frequencies(option.theta, size, lengths)
    cos_BT1R, sin_BT1R = jnp.cos(angles_BTR)[:, :, None, :], jnp.sin(angles_BTR)[:, :, None, :]
    if scaling is not None and scaling.amplitude != 1:
        cos_BT1R, sin_BT1R = scaling.amplitude * cos_BT1R, scaling.amplitude * sin_BT1R
    if option.rotated == "fastest":
        rest = np.s_[..., option.rotated_dims(head_dim) // 2 :]
        cos_BT1R, sin_BT1R = cos_BT1R.at[rest].set(1), sin_BT1R.at[rest].set(0)
    return RotaryTable(cos_BT1R, sin_BT1R, option.interleaved)


def rotate(x_BTNH: jax.Array, table: RotaryTable | None) -> jax.Array:
    """Rotates each pair of dimensions by its angle, in float32; returns the shape and dtype of `x_BTNH`."""
    if table is None:
        return x_BTNH
    cos, sin, size = table.cos, table.sin, 2 * table.cos.shape[-1]
    rest_BTNH = x_BTNH[..., size:] if size < x_BTNH.shape[-1] else None
    x = (x_BTNH if rest_BTNH is None else x_BTNH[..., :size]).astype(jnp.float32)
    if table.interleaved:
        first, second = x[..., 0::2], x[..., 1::2]
        rotated = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1).reshape(x.shape)
    else:
        first, second = jnp.split(x, 2, axis=-1)
        rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    rotated = rotated.astype(x_BTNH.dtype)
    return rotated if rest_BTNH is None else jnp.concatenate([rotated, rest_BTNH], axis=-1)
