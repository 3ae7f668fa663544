"""Per-layer embeddings: each layer reads a small vector of each token, from a table of its own.

Google 2025, Gemma 3n, and Gemma 4, by the code released in `transformers`. For token t with embedding x_t and layer l,
with a table E, a matrix W and a norm N that all layers share, and a gate G, a matrix O and a norm M of the layer:

    p_tl = (N(W_l x_t / sqrt(D)) + sqrt(P) E_l[t]) / sqrt(2)
    h_t <- h_t + M(O (act(G h_t) * p_tl))        after the feed-forward layer

The table may be much larger than all other parameters, and a token reads P numbers a layer of it.
"""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from model.context import Context
from model.feedforward.mlp import ACTIVATIONS, Activation
from model.layout import Layout
from model.norms import LayerNorm, Norm, RMSNorm
from model.parameters.maker import ParameterMaker
from model.parameters.mixed_precision import lookup
from model.parameters.projections import project

if TYPE_CHECKING:
    from model.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerLayerEmbedding:
    """A vector of every token for every layer.

    Attributes:
      width: P, the width of these vectors.
      activation: act.
    """

    width: int
    activation: Activation = "gelu_tanh"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.width < 1:
            yield "width", f"must be at least 1, got {self.width}"

    def cost(self, width: int, num_layers: int, length: int) -> int:
        """Counts the operations of a forward pass: W, and G and O of every layer."""
        return 2 * length * 3 * num_layers * width * self.width


class PerLayerVectors(nnx.Module):
    """The table, the matrix W and the norm N: the vectors of all layers."""

    def __init__(
        self,
        option: PerLayerEmbedding,
        sizes: tuple[int, int, int],
        norm: LayerNorm | RMSNorm,
        make: ParameterMaker,
        reductions: str,
    ) -> None:
        """Args: the option; V, L and D; the kind of norm, the maker, the reduction dtype."""
        vocab_size, num_layers, width = sizes
        self.scale = option.width**0.5
        self.table = make.matrix("embedding", (vocab_size, num_layers, option.width), ("vocab", None, "embed"))
        self.projection = make.matrix("projection", (width, num_layers, option.width), ("embed", None, None))
        self.norm = Norm(norm, (option.width,), (None,), make, reductions)

    def __call__(self, tokens_BT: jax.Array, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        """Returns the vectors of tokens (B, T) with embeddings (B, T, D) for every layer, (L, B, T, P)."""
        tokens_BT = layout.constrain(tokens_BT, ("batch", "vocab_sequence"))
        own_BTLP = layout.constrain(
            lookup(self.table[...], tokens_BT, x_BTD.dtype), ("batch", "vocab_sequence", None, None)
        )
        read_BTLP = project(x_BTD * jnp.asarray(x_BTD.shape[-1] ** -0.5, x_BTD.dtype), self.projection, layout)
        both_BTLP = (self.norm(read_BTLP) + own_BTLP * jnp.asarray(self.scale, x_BTD.dtype)) * jnp.asarray(
            0.5**0.5, x_BTD.dtype
        )
        return layout.constrain(jnp.moveaxis(both_BTLP, 2, 0), (None, "batch", "sequence", None))


def new_per_layer_vectors(config: "ModelConfig", make: ParameterMaker) -> PerLayerVectors | None:
    """Returns the vectors of a model's layers, or None in a model without."""
    option, sizes = config.per_layer_embedding, (config.vocab_size, config.num_layers, config.width)
    return None if option is None else PerLayerVectors(option, sizes, config.norm, make, config.precision.reductions)


class PerLayerInput(nnx.Module):
    """The gate, the matrix O and the norm M of one layer."""

    def __init__(
        self, option: PerLayerEmbedding, width: int, norm: LayerNorm | RMSNorm, make: ParameterMaker, reductions: str
    ) -> None:
        """Args: the option, the model width D, the kind of norm, the maker, the reduction dtype."""
        self.activation = option.activation
        self.gate = make.matrix("projection", (width, option.width), ("embed", "ffn"))
        self.output = make.matrix("residual", (option.width, width), ("ffn", "embed"))
        self.norm = Norm(norm, (width,), ("embed",), make, reductions)

    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        """Returns what is added to the stream x."""
        assert context.per_layer_BTP is not None
        gate_BTP = ACTIVATIONS[self.activation](project(x_BTD, self.gate, context.layout))
        gated_BTP = context.shard(gate_BTP * context.per_layer_BTP, ("batch", "ffn_sequence", "ffn"))
        return self.norm(project(gated_BTP, self.output, context.layout))
