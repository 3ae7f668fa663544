"""The prediction head: a dense layer, an activation and a norm between the stream and the unembedding.

Devlin et al. 2019, "BERT", by its released code (`get_masked_lm_output`): logits are N(act(x W + b)) U + c, where U is
the transposed token table and c the bias of `Tied(bias=True)`. N is the kind of norm that the model has.
"""

import dataclasses
from typing import TYPE_CHECKING

import jax
from flax import nnx

from model.feedforward.mlp import ACTIVATIONS, Activation
from model.layout import Layout
from model.norms import LayerNorm, Norm, RMSNorm
from model.parameters.maker import ParameterMaker
from model.parameters.projections import project

if TYPE_CHECKING:
    from model.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictionHead:
    """See the module.

    Attributes:
      activation: act.
      bias: whether there is a b (BERT, RoBERTa; ModernBERT has none).
    """

    activation: Activation = "gelu"
    bias: bool = True

    def cost(self, width: int, length: int) -> int:
        """Counts the operations of a forward pass: W."""
        return 2 * length * width * width


class PredictionLayer(nnx.Module):
    """The matrix, its bias and the norm."""

    def __init__(
        self, option: PredictionHead, width: int, norm: LayerNorm | RMSNorm, make: ParameterMaker, reductions: str
    ) -> None:
        """Args: the option, the model width D, the kind of norm, the maker, the reduction dtype."""
        self.activation = option.activation
        self.dense = make.matrix("projection", (width, width), ("embed", "embed"))
        self.dense_bias = make.zeros((width,), ("embed",)) if option.bias else None
        self.norm = Norm(norm, (width,), ("embed",), make, reductions)

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        """Maps the stream (B, T, D) to the input of the unembedding, each token by itself."""
        y_BTD = project(x_BTD, self.dense, layout, self.dense_bias)
        y_BTD = layout.constrain(y_BTD, ("batch", "sequence", "embed"))
        return self.norm(ACTIVATIONS[self.activation](y_BTD))


def new_prediction_head(config: "ModelConfig", make: ParameterMaker) -> PredictionLayer | None:
    """Returns the head of a model, or None in a model without."""
    option, reductions = config.prediction_head, config.precision.reductions
    return None if option is None else PredictionLayer(option, config.width, config.norm, make, reductions)
