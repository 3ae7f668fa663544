"""BatchTopK: the tokens of a batch share k activations each, so that a hard token takes more of them."""

import dataclasses
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from train.inspection.features.autoencoders.interface import (
    Inputs,
    Params,
    Published,
    pre_activations,
)
from train.inspection.features.autoencoders.selection import keep_largest
from train.inspection.features.autoencoders.top_k import Selecting


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchTopK(Selecting):
    """Bussmann, Leask, Nanda 2024, "BatchTopK Sparse Autoencoders", equations 3 to 5.

        f = the B k largest of ReLU(W_enc (x - b_dec) + b_enc) in a batch of B tokens
        loss = |x - y|^2 + the auxiliary loss

    After training, when a token must not depend on its batch, a feature fires above a threshold: the mean over steps of
    the smallest activation that was kept, an exponential one. It is SAELens' rule, but for the start: the first step's
    smallest here, 0 there. The mean follows the activations about 1/threshold_rate steps late: while they still shrink,
    fewer than k features fire; once they rest, k in the mean.

    Attributes:
      k, auxiliary: see `Selecting`.
      threshold_rate: the weight of the newest step in that mean.
    """

    threshold_rate: float = 0.01

    def settles_after(self) -> int:
        """The step from which on the threshold has forgotten the first steps, of which 1% is left then."""
        return math.ceil(math.log(0.01) / math.log1p(-self.threshold_rate)) if self.threshold_rate < 1 else 1

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from super().problems()
        if not 0 < self.threshold_rate <= 1:
            yield "threshold_rate", f"must be above 0 and at most 1, got {self.threshold_rate}"

    def own_parameters(self, width: int) -> Params:
        """See `Architecture`."""
        return super().own_parameters(width) | {"threshold": jnp.zeros((), jnp.float32)}

    def encode(self, params: Params, x_BD: jax.Array) -> jax.Array:
        """See `Architecture`."""
        pre_BM = pre_activations(params, x_BD)
        return jnp.where(pre_BM > params["threshold"], jax.nn.relu(pre_BM), 0.0)

    def selected(self, pre_BM: jax.Array, inputs: Inputs) -> jax.Array:
        """The features of a training batch; padding has none."""
        activations_BM = jax.nn.relu(pre_BM) * inputs.weights_B[:, None]
        return keep_largest(activations_BM, self.k * pre_BM.shape[0], axis=(0, 1))

    def after_step(self, params: Params, features_BM: jax.Array, weights_B: jax.Array) -> Params:
        """See `Architecture`."""
        least = jnp.min(jnp.where(features_BM > 0, features_BM, jnp.inf))
        threshold = params["threshold"]
        mean = jnp.where(threshold == 0, least, (1 - self.threshold_rate) * threshold + self.threshold_rate * least)
        return params | {"threshold": jnp.where(jnp.isfinite(least), mean, threshold)}

    def published(self, params: dict[str, np.ndarray]) -> Published:
        """See `Architecture`: a JumpReLU whose features have one threshold."""
        threshold_M = np.full_like(params["encoder_bias"], params["threshold"])
        return Published("jumprelu", {}, {"b_enc": params["encoder_bias"], "threshold": threshold_M})
