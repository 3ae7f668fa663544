"""One vector for a whole text: its first token through a dense layer and tanh, or the mean of its tokens.

Devlin et al. 2019, "BERT", section 3 ("the final hidden vector of the special [CLS] token"), with the layer of its
released code. The mean over tokens: Reimers and Gurevych 2019, "Sentence-BERT", section 3.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.errors import UserError
from model.parameters.maker import ParameterMaker

if TYPE_CHECKING:
    from model.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pooler:
    """tanh(x_0 W + b) of the first token's stream x_0."""


class PoolerLayer(nnx.Module):
    """The matrix and its bias, which only `first_token` reads."""

    def __init__(self, width: int, make: ParameterMaker) -> None:
        """Args: the model width D, the maker."""
        self.dense = make.matrix("score", (width, width), ("embed", None))
        self.dense_bias = make.zeros((width,), ("embed",))


def new_pooler(config: "ModelConfig", make: ParameterMaker) -> PoolerLayer | None:
    """Returns the pooler of a model, or None in a model without."""
    return None if config.pooler is None else PoolerLayer(config.width, make)


def first_token(params: Mapping[str, Any], x_BTD: jax.Array) -> jax.Array:
    """Returns the vectors of texts that begin at the first token of each row, float32 (B, D).

    Args:
      params: the parameters of the whole model.
      x_BTD: its stream, `Output.stream_BTD`.

    Raises UserError for a model without a pooler.
    """
    if "pooler" not in params:
        raise UserError("this model has no pooler; give it pooler=Pooler(), or take model.vocabulary.pooling.mean")
    weights = {name: x.astype(jnp.float32) for name, x in params["pooler"].items()}
    return jnp.tanh(x_BTD[:, 0].astype(jnp.float32) @ weights["dense"] + weights["dense_bias"])


def mean(x_BTD: jax.Array, is_text_BT: jax.Array) -> jax.Array:
    """Returns the mean of a stream over the tokens where `is_text_BT` is True, float32 (B, D); 0 for a row without."""
    weights_BT1 = is_text_BT.astype(jnp.float32)[..., None]
    total_BD = jnp.sum(x_BTD.astype(jnp.float32) * weights_BT1, axis=1)
    return total_BD / jnp.maximum(jnp.sum(weights_BT1, axis=1), 1.0)
