"""ReLU with an L1 penalty."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from train.inspection.features.autoencoders.dead import Resampling
from train.inspection.features.autoencoders.interface import (
    Inputs,
    Loss,
    Params,
    Penalized,
    Published,
    decode,
    decoder_norms,
    pre_activations,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class L1Penalized(Penalized):
    """A penalty of the sum of features, under which dead ones may start again.

    Attributes:
      l1: the coefficient of the penalty.
      warmup_steps: steps over which it grows from 0.
      resampling: new directions for dead features, or None.
    """

    l1: float = 5.0
    resampling: Resampling | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from super().problems()
        if self.l1 < 0:
            yield "l1", f"must be 0 or more, got {self.l1}"

    def resampler(self) -> Resampling | None:
        """See `Architecture`."""
        return self.resampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReLU(L1Penalized):
    """Bricken et al. 2023, "Towards Monosemanticity"; with norms: Conerly et al. 2024, "Update on how we train SAEs".

        f = ReLU(W_enc (x - b_dec) + b_enc)        loss = |x - y|^2 + l1 sum_i f_i |W_dec,i|

    Attributes:
      l1, warmup_steps, resampling: see `L1Penalized`.
    """

    def encode(self, params: Params, x_BD: jax.Array) -> jax.Array:
        """See `Architecture`."""
        return jax.nn.relu(pre_activations(params, x_BD))

    def loss(self, params: Params, inputs: Inputs, dead_M: jax.Array, step: jax.Array) -> Loss:
        """See `Architecture`."""
        f_BM = self.encode(params, inputs.x_BD)
        y_BO = decode(params, f_BM)
        sizes_B = jnp.sum(f_BM * decoder_norms(params), axis=-1)
        terms = {
            "reconstruction": inputs.mean_square(y_BO),
            "penalty": self.l1 * self.strength(step) * inputs.mean(sizes_B),
        }
        return Loss(sum(terms.values(), start=jnp.float32(0)), f_BM, y_BO, terms)

    def published(self, params: dict[str, np.ndarray]) -> Published:
        """See `Architecture`."""
        return Published("standard", {}, {"b_enc": params["encoder_bias"]})
