"""What every residual scheme is: an option that begins and ends the stream, and a module for each layer.

The stream is whatever `enter` makes of the embeddings: an array (B, T, D), or any tree of arrays whose shapes stay the
same from layer to layer, since layers are scanned. Within a layer it may take another form: `read` and `write` hand it
to each other, so that what both need is computed once.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from model.context import Context
from model.norms import LayerNorm, Norm, RMSNorm
from model.parameters.gradients import narrowed
from model.parameters.maker import ParameterMaker

Sublayer = Literal["mixer", "ffn"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Around:
    """What a model and a layer say to a scheme.

    Attributes:
      sublayers: those of the layer, in order.
      width: D.
      norm: the kind of its norms.
      layer_scale: where a trained factor for each channel of what a sublayer adds starts; None for no such factors.
      multiplier: a constant factor on the same.
      dropout: the share of it that is dropped while training.
      reductions: the dtype of sensitive sums.
    """

    sublayers: tuple[Sublayer, ...]
    width: int
    norm: LayerNorm | RMSNorm
    layer_scale: float | None = None
    multiplier: float = 1.0
    dropout: float = 0.0
    reductions: str = "float32"


class Scheme:
    """The options of residual schemes.

    Attributes:
      final_norm: whether the stream is normalised once more before the logits.
    """

    final_norm: ClassVar[bool] = True

    def build(self, around: Around, make: ParameterMaker, before: jax.Array | int) -> "Stream":
        """The module of one layer; `before` counts the sublayers before it, and is traced where layers are stacked."""
        raise NotImplementedError

    def enter(self, x_BTD: jax.Array) -> Any:
        """The stream that begins with these embeddings."""
        return x_BTD

    def leave(self, stream: Any) -> jax.Array:
        """What the final norm and the logits read of the stream, (B, T, D)."""
        return stream

    def problems_with(self, most: int) -> Iterator[tuple[str, str]]:
        """Yields fields that do nothing in a model whose layers have at most so many sublayers."""
        yield from ()

    def cost(self, width: int, length: int, sublayers: int) -> int:
        """Operations of the matrix products by which so many sublayers of a layer read and write `length` tokens."""
        return 0


class Stream(nnx.Module):
    """The residual stream in one layer."""

    def __init__(self, around: Around, make: ParameterMaker) -> None:
        """Args: what the model and the layer say, the maker of parameters."""
        self.around = around
        for i in around.sublayers:
            gain = around.layer_scale
            self.keep("gain", i, None if gain is None else make.constant("gain", gain, (around.width,), ("embed",)))

    def keep(self, name: str, i: Sublayer, part: Any) -> None:
        """Keeps a part of sublayer i, such as `mixer_norm`."""
        setattr(self, f"{i}_{name}", part)

    def part(self, name: str, i: Sublayer) -> Any:
        """The part of sublayer i that was kept under a name."""
        return getattr(self, f"{i}_{name}")

    def make_norms(self, name: str, make: ParameterMaker, *but: Sublayer) -> None:
        """Keeps a norm under a name for every sublayer, or for every one but some."""
        around = self.around
        for i in around.sublayers:
            norm = Norm(around.norm, (around.width,), ("embed",), make, around.reductions)
            self.keep(name, i, None if i in but else norm)

    def read(self, stream: Any, i: Sublayer) -> tuple[jax.Array, Any]:
        """What sublayer i reads, (B, T, D), and the stream as `write` wants it."""
        raise NotImplementedError

    def write(self, stream: Any, y_BTD: jax.Array, i: Sublayer, context: Context) -> Any:
        """The stream with what sublayer i gave."""
        raise NotImplementedError

    def scaled(self, y_BTD: jax.Array, i: Sublayer, context: Context) -> jax.Array:
        """What sublayer i adds to the stream: with its gain, the multiplier and dropout."""
        gain, multiplier = self.part("gain", i), self.around.multiplier
        y_BTD = y_BTD if gain is None else y_BTD * narrowed(gain[...], y_BTD)
        y_BTD = y_BTD if multiplier == 1 else y_BTD * jnp.asarray(multiplier, y_BTD.dtype)
        return context.dropout(context.tap(f"{i}_output", y_BTD), self.around.dropout)


def placed(x_BTD: jax.Array, context: Context) -> jax.Array:
    """A stream of one vector a token, laid over the mesh."""
    return context.shard(x_BTD, ("batch", "sequence", "embed"))
