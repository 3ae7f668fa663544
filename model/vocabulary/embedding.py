"""Tokens to vectors and vectors to logits; the two may share one table.

Press, Wolf 2017, "Using the Output Embedding to Improve Language Models" (tied); the soft-cap c * tanh(z / c) on logits
is Gemma 2's (2024, section 2).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from model.gradients import lookup
from model.layout import Layout
from model.norms import Norm
from model.parameters import ParameterMaker
from model.projections import matmul
from model.residual import Multipliers


class _Unembedding:
    """The options of how the stream becomes logits."""

    def cost(self, width: int, vocab_size: int, length: int) -> int:
        """Operations of the logits of `length` tokens."""
        return 2 * length * width * vocab_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tied(_Unembedding):
    """Logits are products with the token embedding."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Untied(_Unembedding):
    """Logits come from a matrix of their own."""

    bias: bool = False


class Embedding(nnx.Module):
    """The token table, and the unembedding where it is a matrix of its own."""

    def __init__(
        self,
        unembedding: Tied | Untied,
        vocab_size: int,
        width: int,
        softcap: float | None,
        multipliers: Multipliers,
        make: ParameterMaker,
        norm: Norm | None = None,
    ) -> None:
        """Args: the unembedding, V, D, the logits' soft-cap or None, the factors, the maker, the norm of embeddings."""
        self.softcap, self.multipliers, self.norm = softcap, multipliers, norm
        self.table = make.matrix("embedding", (vocab_size, width), ("vocab", "embed"))
        untied = isinstance(unembedding, Untied)
        biased = isinstance(unembedding, Untied) and unembedding.bias
        self.output = make.matrix("unembedding", (width, vocab_size), ("embed", "vocab")) if untied else None
        self.output_bias = make.zeros((vocab_size,), ("vocab",)) if biased else None

    def embed(self, tokens_BT: jax.Array, dtype: str, layout: Layout) -> jax.Array:
        """Looks tokens up, normalises and scales: (B, T) ids to (B, T, D), in the dtype given."""
        # Were positions and vocabulary split over the same devices, each would gather the table.
        tokens_BT = layout.constrain(tokens_BT, ("batch", "vocab_sequence"))
        x_BTD = layout.constrain(lookup(self.table[...], tokens_BT, dtype), ("batch", "vocab_sequence", "embed"))
        x_BTD = layout.constrain(x_BTD, ("batch", "sequence", "embed"))
        x_BTD = x_BTD if self.norm is None else self.norm(x_BTD)
        factor = self.multipliers.embedding
        return x_BTD if factor == 1 else x_BTD * jnp.asarray(factor, x_BTD.dtype)

    def unembed(self, x_BTD: jax.Array, dtype: str, layout: Layout) -> jax.Array:
        """Logits (B, T, V), accumulated and returned in the dtype given."""
        w_DV = self.table[...].T if self.output is None else self.output[...]
        x_BTD = layout.constrain(x_BTD, ("batch", "vocab_sequence", "embed"))
        logits_BTV = matmul(x_BTD, w_DV, layout, dtype=jnp.dtype(dtype))
        logits_BTV = layout.constrain(logits_BTV, ("batch", "vocab_sequence", "vocab"))
        if self.output_bias is not None:
            logits_BTV = logits_BTV + self.output_bias[...].astype(x_BTD.dtype)
        if self.multipliers.logits != 1:
            logits_BTV = logits_BTV * self.multipliers.logits
        return logits_BTV if self.softcap is None else self.softcap * jnp.tanh(logits_BTV / self.softcap)
