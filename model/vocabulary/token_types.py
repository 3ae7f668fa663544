"""Token types: a trained vector for the kind of a token, such as the first or the second of two sentences.

Devlin et al. 2019, "BERT", section 3 and figure 2 ("segment embeddings").
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from model.errors import UserError
from model.parameters.maker import ParameterMaker
from model.parameters.mixed_precision import lookup

if TYPE_CHECKING:
    from model.config import ModelConfig


class TokenTypeEmbedding(nnx.Module):
    """The table of the types."""

    def __init__(self, types: int, width: int, make: ParameterMaker) -> None:
        """Args: the number of types, the model width D, the maker."""
        self.table = make.matrix("position", (types, width), ("position", "embed"))

    def __call__(self, x_BTD: jax.Array, types_BT: jax.Array) -> jax.Array:
        """Returns the embedding with the vectors of types added, (B, T, D)."""
        return x_BTD + lookup(self.table[...], types_BT, x_BTD.dtype)


def new_token_types(config: "ModelConfig", make: ParameterMaker) -> TokenTypeEmbedding | None:
    """Returns the types of a model's tokens, or None in a model without."""
    return None if config.token_types is None else TokenTypeEmbedding(config.token_types, config.width, make)


def with_types(table: TokenTypeEmbedding | None, x_BTD: jax.Array, types_BT: jax.Array | None) -> jax.Array:
    """Returns an embedding with the vectors of its tokens' types, which are 0 where they are None.

    Raises UserError for types of tokens in a model that has none.
    """
    if table is not None:
        return table(x_BTD, jnp.zeros((1, 1), jnp.int32) if types_BT is None else types_BT)
    if types_BT is not None:
        raise UserError("token_types_BT: this model has no types of tokens; give it token_types=2, or leave it out")
    return x_BTD
