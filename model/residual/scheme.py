"""The interface of residual schemes: an option that begins and ends the stream, and a module for each layer.

`enter` makes the stream from the embeddings: an array (B, T, D), or any tree of arrays whose shapes stay the same from
layer to layer, since layers are scanned. Within a layer the stream may have another form: `read` returns it and `write`
takes it, so that values that both need are computed once.
"""

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from model.context import Context
from model.norms import LayerNorm, Norm, RMSNorm
from model.parameters.maker import ParameterMaker
from model.parameters.mixed_precision import cast_like

Sublayer = Literal["mixer", "cross", "ffn"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSettings:
    """The settings of a model and a layer that a scheme needs.

    Attributes:
      sublayers: the sublayers of the layer, in order.
      width: D.
      norm: the kind of norms.
      layer_scale: the initial value of a trained factor on each channel of a sublayer's output; None for no factors.
      multiplier: a constant factor on a sublayer's output.
      dropout: the dropout rate of a sublayer's output in training.
      reductions: the dtype of sensitive sums.
      unnormed: the sublayers that read the stream without a norm.
    """

    sublayers: tuple[Sublayer, ...]
    width: int
    norm: LayerNorm | RMSNorm
    layer_scale: float | None = None
    multiplier: float = 1.0
    dropout: float = 0.0
    reductions: str = "float32"
    unnormed: tuple[Sublayer, ...] = ()


class ResidualOption:
    """The interface of residual options.

    Attributes:
      final_norm: whether the stream is normalised once more before the logits.
      one_vector: whether the stream between layers is one vector for each token, (B, T, D).
      additive: whether the stream after a layer is the stream before it plus the taps `mixer_output` and `ffn_output`.
      normalizes_output: whether the output of a sublayer is normalised before it is added to the stream.
    """

    final_norm: ClassVar[bool] = True
    one_vector: ClassVar[bool] = True
    additive: ClassVar[bool] = False
    normalizes_output: ClassVar[bool] = False

    @property
    def first_norm(self) -> bool:
        """Whether the first sublayer of the first layer reads what the others read, not the stream without a norm."""
        return True

    def build(
        self, settings: LayerSettings, make: ParameterMaker, sublayers_before: jax.Array | int
    ) -> "ResidualStream":
        """Returns the module of a layer; `sublayers_before` is traced for stacked layers."""
        raise NotImplementedError

    def enter(self, x_BTD: jax.Array) -> Any:
        """Returns the stream that begins with these embeddings."""
        return x_BTD

    def leave(self, stream: Any) -> jax.Array:
        """Returns the input of the final norm and the logits, (B, T, D)."""
        return stream

    def problems_with(self, sublayers: Collection[tuple[Sublayer, ...]]) -> Iterator[tuple[str, str]]:
        """Yields fields without effect in a model whose layers have these sublayers."""
        yield from ()

    def cost(self, width: int, length: int, sublayers: int) -> int:
        """Returns the operations of the matrix products with which the sublayers of a layer read and write tokens."""
        return 0


class ResidualStream(nnx.Module):
    """The residual stream in one layer."""

    def __init__(self, settings: LayerSettings, make: ParameterMaker) -> None:
        """Args: the settings of the model and the layer, the maker of parameters."""
        self.settings = settings
        for i in settings.sublayers:
            gain = settings.layer_scale
            self.set_part(
                "gain", i, None if gain is None else make.constant("gain", gain, (settings.width,), ("embed",))
            )

    def set_part(self, name: str, i: Sublayer, part: Any) -> None:
        """Keeps a part of sublayer i, such as `mixer_norm`."""
        setattr(self, f"{i}_{name}", part)

    def part(self, name: str, i: Sublayer) -> Any:
        """Returns the part of sublayer i that was kept under a name."""
        return getattr(self, f"{i}_{name}")

    def make_norms(self, name: str, make: ParameterMaker, *except_for: Sublayer) -> None:
        """Keeps a norm under a name for every sublayer except those in `except_for`."""
        settings = self.settings
        for i in settings.sublayers:
            norm = Norm(settings.norm, (settings.width,), ("embed",), make, settings.reductions)
            self.set_part(name, i, None if i in except_for else norm)

    def read(self, stream: Any, i: Sublayer) -> tuple[jax.Array, Any]:
        """Returns the input of sublayer i, (B, T, D), and the stream as `write` takes it."""
        raise NotImplementedError

    def write(self, stream: Any, y_BTD: jax.Array, i: Sublayer, context: Context) -> Any:
        """Returns the stream with the output of sublayer i."""
        raise NotImplementedError

    def sublayer_output(self, y_BTD: jax.Array, i: Sublayer, context: Context) -> jax.Array:
        """Returns the output of sublayer i after its gain, the multiplier and dropout."""
        gain, multiplier = self.part("gain", i), self.settings.multiplier
        y_BTD = y_BTD if gain is None else y_BTD * cast_like(gain[...], y_BTD)
        y_BTD = y_BTD if multiplier == 1 else y_BTD * jnp.asarray(multiplier, y_BTD.dtype)
        return context.dropout(context.tap(f"{i}_output", y_BTD), self.settings.dropout)


def shard_stream(x_BTD: jax.Array, context: Context) -> jax.Array:
    """Returns a stream of one vector per token, sharded over the mesh."""
    return context.shard(x_BTD, ("batch", "sequence", "embed"))
