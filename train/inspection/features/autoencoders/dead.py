"""Features that never fire: an auxiliary loss that trains them, and resampling, which gives them new directions."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from train.inspection.features.autoencoders.selection import keep_largest

if TYPE_CHECKING:
    from train.inspection.features.autoencoders.interface import Inputs, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuxK:
    """Dead features write the error of the others: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", A.2.

    With e = x - y and z the k largest activations of dead features, the loss grows by weight |e - W_dec z|^2. No
    gradient flows through e.

    Attributes:
      k: the number of dead features for each token.
      weight: of the loss.
    """

    k: int = 512
    weight: float = 1 / 32

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.k < 1:
            yield "k", f"must be at least 1, got {self.k}"
        if self.weight <= 0:
            yield "weight", f"must be above 0, got {self.weight}; set the whole option None for no auxiliary loss"

    def loss(
        self, params: "Params", inputs: "Inputs", pre_BM: jax.Array, output_BO: jax.Array, dead_M: jax.Array
    ) -> jax.Array:
        """weight |e - W_dec z|^2, the mean over tokens; 0 without a dead feature."""
        error_BO = jax.lax.stop_gradient(inputs.target_BO - output_BO)
        z_BM = keep_largest(jnp.where(dead_M, jax.nn.relu(pre_BM), 0.0), min(self.k, dead_M.shape[0]), axis=1)
        square = inputs.mean(jnp.sum(jnp.square(error_BO - z_BM @ params["decoder"]), axis=-1))
        return self.weight * jnp.where(jnp.any(dead_M), square, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resampling:
    """Dead features start again at inputs that are written badly: Bricken et al. 2023, "Towards Monosemanticity".

    Of the tokens of a batch some are drawn with probabilities in proportion to their squared loss. The direction of a
    dead feature becomes that of such a target; its encoder vector that of the input, with a length of `encoder_share`
    times the mean length of the encoder vectors of live features; its other parameters and moments become 0.

    Attributes:
      every: steps between two resamplings.
      encoder_share: see above.
    """

    every: int = 25_000
    encoder_share: float = 0.2

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.every < 1:
            yield "every", f"must be at least 1, got {self.every}; set the whole option None for no resampling"
        if self.encoder_share <= 0:
            yield "encoder_share", f"must be above 0, got {self.encoder_share}"

    def resample(
        self, params: "Params", inputs: "Inputs", output_BO: jax.Array, dead_M: jax.Array, key: jax.Array
    ) -> "Params":
        """The parameters with those of dead features replaced."""
        losses_B = jnp.sum(jnp.square(output_BO - inputs.target_BO), axis=-1) * inputs.weights_B
        drawn_M = jax.random.categorical(key, 2 * jnp.log(losses_B), shape=dead_M.shape)
        live = jnp.sum(jnp.where(dead_M, 0.0, jnp.linalg.norm(params["encoder"], axis=0)))
        length = self.encoder_share * live / jnp.maximum(jnp.sum(~dead_M), 1)
        centred_BO = inputs.target_BO - params["decoder_bias"]
        found = {
            "decoder": jnp.where(dead_M[:, None], _unit(centred_BO[drawn_M]), params["decoder"]),
            "encoder": jnp.where(dead_M, length * _unit(inputs.x_BD[drawn_M]).T, params["encoder"]),
        }
        own = {name: x for name, x in params.items() if x.shape == dead_M.shape and name != "decoder_bias"}
        return params | found | {name: jnp.where(dead_M, 0.0, x) for name, x in own.items()}


def _unit(x_MD: jax.Array) -> jax.Array:
    return x_MD / jnp.maximum(jnp.linalg.norm(x_MD, axis=1, keepdims=True), 1e-12)
