"""Token embedding and its unembedding (model/vocabulary/unembedding.py); the two may share one table.

The table may be narrower than the stream: then a matrix maps its rows to the stream, and another one maps the stream to
the width of the table, before the logits.

Press, Wolf 2017, "Using the Output Embedding to Improve Language Models" (tied).
"""

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from model.layout import Layout
from model.norms import Norm
from model.parameters.maker import ParameterMaker
from model.parameters.mixed_precision import lookup
from model.parameters.projections import project
from model.parameters.quantized_weights import QuantizedMatrix
from model.residual import Multipliers
from model.vocabulary.unembedding import LogitTransform, Unembedding

if TYPE_CHECKING:  # the config imports the options
    from model.config import ModelConfig


class _UnembeddingOption:
    """The interface of unembedding options."""

    def cost(self, width: int, vocab_size: int, length: int) -> int:
        """Returns the operations of the logits of `length` tokens."""
        return 2 * length * width * vocab_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tied(_UnembeddingOption):
    """Logits are products with the token embedding table.

    Attributes:
      bias: whether logits have a bias (BERT).
    """

    bias: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Untied(_UnembeddingOption):
    """Logits are products with a separate matrix.

    Attributes:
      bias: whether logits have a bias.
      unit_norm: whether the vector of every token is divided by its Euclidean norm, so that logits compare directions
        alone (Yang et al. 2023, "Baichuan 2: Open Large-scale Language Models", section 3.3).
    """

    bias: bool = False
    unit_norm: bool = False


class Embedding(nnx.Module):
    """The embedding table, and the unembedding matrix if it is separate."""

    def __init__(
        self,
        unembedding: Tied | Untied,
        vocab_size: int,
        width: int,
        softcap: float | None,
        multipliers: Multipliers,
        make: ParameterMaker,
        norm: Norm | None = None,
        table_width: int | None = None,
    ) -> None:
        """Draws the parameters.

        Args:
          unembedding: the option of the unembedding.
          vocab_size, width: V and D.
          softcap: the soft-cap of logits, or None.
          multipliers: the factors on embeddings and logits.
          make: the maker.
          norm: the norm of embeddings, or None.
          table_width: E, the width of the table; None for D.
        """
        self.softcap, self.multipliers, self.norm = softcap, multipliers, norm
        stream_width, width = width, width if table_width is None else table_width
        self.table = make.matrix("embedding", (vocab_size, width), ("vocab", "embed"))
        untied = isinstance(unembedding, Untied)
        biased = unembedding.bias
        self.unit_norm = isinstance(unembedding, Untied) and unembedding.unit_norm
        self.output = make.matrix("unembedding", (width, vocab_size), ("embed", "vocab")) if untied else None
        self.output_bias = make.zeros((vocab_size,), ("vocab",)) if biased else None
        narrow, axes = table_width is not None, ("embed", "embed")
        self.input_projection = make.matrix("projection", (width, stream_width), axes) if narrow else None
        self.output_projection = make.matrix("projection", (stream_width, width), axes) if narrow else None

    def embed(self, tokens_BT: jax.Array, dtype: str, layout: Layout) -> jax.Array:
        """Looks up, projects, normalises and scales embeddings: (B, T) ids to (B, T, D), in the given dtype."""
        # If the same devices split positions and vocabulary, each device would gather the whole table.
        tokens_BT = layout.constrain(tokens_BT, ("batch", "vocab_sequence"))
        x_BTE = layout.constrain(lookup(self.table[...], tokens_BT, dtype), ("batch", "vocab_sequence", "embed"))
        x_BTD = layout.constrain(x_BTE, ("batch", "sequence", "embed"))
        if self.input_projection is not None:
            x_BTD = layout.constrain(project(x_BTD, self.input_projection, layout), ("batch", "sequence", "embed"))
        x_BTD = x_BTD if self.norm is None else self.norm(x_BTD)
        factor = self.multipliers.embedding
        return x_BTD if factor == 1 else x_BTD * jnp.asarray(factor, x_BTD.dtype)

    def unembedding(self, dtype: str) -> Unembedding:
        """Returns the map from the stream to logits, which accumulates and returns them in the given dtype."""
        w_DV = self.table[...].T if self.output is None else self.output[...]
        return Unembedding(
            projection_DE=None if self.output_projection is None else self.output_projection[...],
            quantized=self.output if isinstance(self.output, QuantizedMatrix) and not self.unit_norm else None,
            w_DV=unit_columns(w_DV) if self.unit_norm else w_DV,
            bias_V=None if self.output_bias is None else self.output_bias[...],
            transform=LogitTransform(factor=self.multipliers.logits, softcap=self.softcap, dtype=dtype),
        )


def new_embedding(config: "ModelConfig", make: ParameterMaker, norm: Norm | None) -> Embedding:
    """Returns the tables of a model; `norm` is that of embeddings."""
    sizes = config.unembedding, config.vocab_size, config.width
    return Embedding(*sizes, config.final_logit_softcap, config.factors, make, norm, config.embedding_width)


def unit_columns(w_DV: jax.Array) -> jax.Array:
    """Returns a matrix with columns of Euclidean norm 1, computed in float32, in the dtype of the matrix."""
    w = w_DV.astype(jnp.float32)
    return (w * jax.lax.rsqrt(jnp.maximum(jnp.sum(w * w, axis=0), 1e-24))).astype(w_DV.dtype)
