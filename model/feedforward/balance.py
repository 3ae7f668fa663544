"""Load balancing of experts during training: two losses, and a bias on the choice of experts.

`BalanceLoss`: Fedus et al. 2021, "Switch Transformers", equations 4 to 6; over each sequence, DeepSeek-AI 2024,
"DeepSeek-V3 Technical Report", equations 17 to 20. The z-loss: Zoph et al. 2022, "ST-MoE", equation 5. `LoadBias`:
Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts", algorithm 1.

Losses and loads include only the tokens that count in the loss: padding has no load. The measured values are sums over
tokens, so that the values of micro-batches add up to those of one large batch.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp

from model.context import Context
from model.feedforward.routing import Routing


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalanceLoss:
    """coefficient * E * sum over experts of (the expert's share of the load) * (its mean share of the scores).

    The sum times E is 1 when all experts have the same load, for any top_k; each layer adds its own loss.

    Attributes:
      coefficient: the factor of the loss.
      over: whether shares are taken over the whole "batch" (GShard, Switch), or over each "sequence" (DeepSeek-V3),
        followed by the mean over sequences. With gradient accumulation a batch is one micro-batch; over sequences, the
        number of micro-batches does not matter.
    """

    coefficient: float
    over: Literal["batch", "sequence"] = "batch"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.coefficient <= 0:
            yield "coefficient", f"must be above 0, got {self.coefficient}; use balance_loss=None for no loss"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadBias:
    """A bias for each expert, added to its score when experts are chosen, and not to its weight.

    After each training step, the bias moves by rate * sign(mean load - load). No optimizer updates it: it has no
    gradient and no weight decay.

    Attributes:
      rate: how far the bias moves; 0 keeps it constant, as at the end of DeepSeek-V3's training.
    """

    rate: float = 0.001

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.rate < 0:
            yield "rate", f"must be 0 or more, got {self.rate}"


def record_balance(
    context: Context,
    routing: Routing,
    logits_BTE: jax.Array,
    dropped_BTR: jax.Array | None,
    balance: BalanceLoss | None,
    z_loss: float,
) -> None:
    """Adds the losses of one layer, and measures its loads. Does nothing if the context counts no tokens."""
    if context.weights_BT is None:
        return
    weights_BT = context.weights_BT.astype(jnp.float32)
    share_BTE = routing.probabilities_BTE
    chosen_BTE = jnp.sum(jax.nn.one_hot(routing.chosen_BTR, share_BTE.shape[-1], dtype=jnp.float32), axis=2)
    load_BE = jnp.einsum("BT,BTE->BE", weights_BT, chosen_BTE)
    if balance is not None:
        context.add_loss("balance_loss", balance.coefficient * _imbalance(balance, weights_BT, load_BE, share_BTE))
    if z_loss:
        z_BT = jnp.square(jax.nn.logsumexp(logits_BTE, axis=-1))
        context.add_loss("router_z_loss", z_loss * jnp.sum(weights_BT * z_BT))
    entropy_BT = -jnp.sum(jax.scipy.special.xlogy(share_BTE, share_BTE), axis=-1)
    measurements = {
        "tokens": jnp.sum(weights_BT),
        "load": jnp.sum(load_BE, axis=0),
        "entropy": _sum(weights_BT, entropy_BT),
    }
    if dropped_BTR is not None:
        measurements["dropped"] = _sum(weights_BT, jnp.sum(dropped_BTR, axis=-1))
    for name, value in measurements.items():
        context.measure(name, jax.lax.stop_gradient(value))


def _imbalance(balance: BalanceLoss, weights_BT: jax.Array, load_BE: jax.Array, share_BTE: jax.Array) -> jax.Array:
    """Returns the loss above without its coefficient, times the number of tokens that count."""
    share_BE = jnp.einsum("BT,BTE->BE", weights_BT, share_BTE)
    if balance.over == "batch":
        load_BE, share_BE = (jnp.sum(x, axis=0, keepdims=True) for x in (load_BE, share_BE))
    load_BE = load_BE / jnp.maximum(jnp.sum(load_BE, axis=-1, keepdims=True), 1e-9)
    # The mean share of the scores is share_BE / tokens, and a sequence counts `tokens` times: both cancel.
    return share_BE.shape[-1] * jnp.sum(load_BE * share_BE)


def _sum(weights_BT: jax.Array, x_BT: jax.Array) -> jax.Array:
    return jnp.sum(weights_BT * x_BT)
