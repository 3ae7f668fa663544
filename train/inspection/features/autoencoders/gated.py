"""Gated autoencoders: one product decides which features fire, another how much."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from train.inspection.features.autoencoders.interface import (
    Inputs,
    Loss,
    Params,
    Published,
    decode,
    decoder_norms,
)
from train.inspection.features.autoencoders.relu import L1Penalized


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gated(L1Penalized):
    """Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders", equations 3 to 8.

        gate = W_enc (x - b_dec) + b_gate           f = 1[gate > 0] ReLU(exp(r) W_enc (x - b_dec) + b_mag)
        loss = |x - y|^2 + l1 sum_i ReLU(gate_i) |W_dec,i| + |x - frozen decoder(ReLU(gate))|^2

    Attributes:
      l1, warmup_steps, resampling: see `L1Penalized`.
    """

    def own_parameters(self, width: int) -> Params:
        """See `Architecture`."""
        return {name: jnp.zeros(width, jnp.float32) for name in ("gate_bias", "magnitude_bias", "log_magnitude")}

    def encode(self, params: Params, x_BD: jax.Array) -> jax.Array:
        """See `Architecture`."""
        return _features(params, x_BD @ params["encoder"])

    def loss(self, params: Params, inputs: Inputs, dead_M: jax.Array, step: jax.Array) -> Loss:
        """See `Architecture`."""
        products_BM = inputs.x_BD @ params["encoder"]
        f_BM = _features(params, products_BM)
        y_BO = decode(params, f_BM)
        gates_BM = jax.nn.relu(products_BM + params["gate_bias"])
        frozen = jax.lax.stop_gradient({name: params[name] for name in ("decoder", "decoder_bias")})
        sizes_B = jnp.sum(gates_BM * decoder_norms(params), axis=-1)
        terms = {
            "reconstruction": inputs.mean_square(y_BO),
            "penalty": self.l1 * self.strength(step) * inputs.mean(sizes_B),
            "gate_reconstruction": inputs.mean_square(decode(frozen, gates_BM)),
        }
        return Loss(sum(terms.values(), start=jnp.float32(0)), f_BM, y_BO, terms)

    def published(self, params: dict[str, np.ndarray]) -> Published:
        """See `Architecture`."""
        names = {"b_gate": "gate_bias", "b_mag": "magnitude_bias", "r_mag": "log_magnitude"}
        return Published("gated", {}, {theirs: params[ours] for theirs, ours in names.items()})


def _features(params: Params, products_BM: jax.Array) -> jax.Array:
    fires_BM = products_BM + params["gate_bias"] > 0
    magnitudes_BM = jax.nn.relu(products_BM * jnp.exp(params["log_magnitude"]) + params["magnitude_bias"])
    return jnp.where(fires_BM, magnitudes_BM, 0.0)
