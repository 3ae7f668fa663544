"""TopK: each token keeps its k largest activations."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from train.inspection.features.autoencoders.dead import AuxK
from train.inspection.features.autoencoders.interface import (
    Architecture,
    Inputs,
    Loss,
    Params,
    Published,
    decode,
    pre_activations,
)
from train.inspection.features.autoencoders.selection import keep_largest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selecting(Architecture):
    """An architecture that keeps the largest activations.

    Attributes:
      k: the activations that each token keeps, in the mean over tokens where they are shared.
      auxiliary: the loss that trains dead features, or None.
    """

    k: int = 32
    auxiliary: AuxK | None = AuxK()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.k < 1:
            yield "k", f"must be at least 1, got {self.k}"

    def problems_with(self, width: int, output_width: int) -> Iterator[tuple[str, str]]:
        """See `Architecture`."""
        if self.k > width:
            yield "k", f"{self.k} of {width} features cannot be kept; give fewer, or a larger width"

    def selected(self, pre_BM: jax.Array, inputs: Inputs) -> jax.Array:
        """The features of a training batch, from their values before the selection."""
        raise NotImplementedError

    def loss(self, params: Params, inputs: Inputs, dead_M: jax.Array, step: jax.Array) -> Loss:
        """See `Architecture`."""
        pre_BM = pre_activations(params, inputs.x_BD)
        f_BM = self.selected(pre_BM, inputs)
        y_BO = decode(params, f_BM)
        terms = {"reconstruction": inputs.mean_square(y_BO)}
        terms |= self.auxiliary_terms(params, inputs, pre_BM, y_BO, dead_M)
        return Loss(sum(terms.values(), start=jnp.float32(0)), f_BM, y_BO, terms)

    def auxiliary_terms(
        self, params: Params, inputs: Inputs, pre_BM: jax.Array, output_BO: jax.Array, dead_M: jax.Array
    ) -> dict[str, jax.Array]:
        """The auxiliary loss by name; none without the option."""
        if self.auxiliary is None:
            return {}
        return {"auxiliary": self.auxiliary.loss(params, inputs, pre_BM, output_BO, dead_M)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopK(Selecting):
    """Gao et al. 2024, "Scaling and evaluating sparse autoencoders", section 2.3, after Makhzani, Frey 2013.

    f = TopK(ReLU(W_enc (x - b_dec) + b_enc))        loss = |x - y|^2 + the auxiliary loss
    """

    def encode(self, params: Params, x_BD: jax.Array) -> jax.Array:
        """See `Architecture`."""
        return keep_largest(jax.nn.relu(pre_activations(params, x_BD)), self.k, axis=1)

    def selected(self, pre_BM: jax.Array, inputs: Inputs) -> jax.Array:
        """See `Selecting`."""
        return keep_largest(jax.nn.relu(pre_BM), self.k, axis=1)

    def published(self, params: dict[str, np.ndarray]) -> Published:
        """See `Architecture`."""
        return Published("topk", {"k": self.k}, {"b_enc": params["encoder_bias"]})
