"""The unembedding: logits soft-cap(factor (x W + b)) of the residual stream, which a loss can compute in parts.

The soft-cap c * tanh(z / c) is that of Gemma 2 (2024, section 2).
"""

import dataclasses

import jax
import jax.numpy as jnp

from model.layout import Layout
from model.parameters.mixed_precision import round_to_dtype
from model.parameters.projections import matmul
from model.parameters.quantized_weights import QuantizedMatrix
from model.vocabulary.prediction_head import PredictionLayer


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitTransform:
    """The map from products of stream and weight to logits.

    Attributes:
      factor: multiplies the products, after the bias is added.
      softcap: the bound on absolute logits, or None.
      dtype: the dtype of products and logits.
      temperature: divides the logits, in float32; 1 for the model's own.
    """

    factor: float
    softcap: float | None
    dtype: str
    temperature: float = 1.0

    def __call__(self, products: jax.Array, bias_V: jax.Array | None) -> jax.Array:
        """Returns the logits, (..., V)."""
        logits = products if bias_V is None else products + bias_V.astype(products.dtype)
        if self.factor != 1:
            logits = logits * self.factor
        if self.softcap is not None:
            logits = self.softcap * jnp.tanh(logits / self.softcap)
        return logits if self.temperature == 1 else logits.astype(jnp.float32) / self.temperature


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unembedding:
    """The map from the stream to logits. The arrays have the dtype of their gradients; each use rounds them.

    Attributes:
      w_DV: the weight; the transposed embedding table if the two are tied.
      bias_V: the bias, or None.
      transform: the map from products to logits.
      projection_DE: the matrix from the stream to the width E of a narrower table, whose weight is (E, V); or None.
      quantized: the weight as it is stored, where it is quantised; or None.
      head: the layer between the stream and all this, or None.
    """

    w_DV: jax.Array
    bias_V: jax.Array | None
    transform: LogitTransform
    projection_DE: jax.Array | None = None
    quantized: QuantizedMatrix | None = None
    head: PredictionLayer | None = None

    def projected(self, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        """Returns a stream after the head and at the width of the weight, (B, T, D) or (B, T, E)."""
        x_BTD = x_BTD if self.head is None else self.head(x_BTD, layout)
        if self.projection_DE is None:
            return x_BTD
        return layout.constrain(matmul(x_BTD, self.projection_DE, layout), ("batch", "sequence", "embed"))

    def logits(self, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        """Returns the logits of a stream, (B, T, V)."""
        x_BTD = layout.constrain(self.projected(x_BTD, layout), ("batch", "vocab_sequence", "embed"))
        weight = self.w_DV if self.quantized is None else self.quantized
        products_BTV = matmul(x_BTD, weight, layout, dtype=jnp.dtype(self.transform.dtype))
        products_BTV = layout.constrain(products_BTV, ("batch", "vocab_sequence", "vocab"))
        bias_V = None if self.bias_V is None else round_to_dtype(self.bias_V, x_BTD.dtype)
        return self.transform(products_BTV, bias_V)
