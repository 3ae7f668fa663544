"""Next-token cross-entropy, in one place, and what is minimised with it.

The z-loss pulls log Z towards 0: Chowdhery et al. 2022, "PaLM", section 5.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def cross_entropy(logits_BTV: jax.Array, targets_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The loss of each token and its log-normaliser.

    Args:
      logits_BTV: scores; taken to float32.
      targets_BT: the ids that should come next.

    Returns:
      -log p(target) in nats and log Z, each float32 (B, T).
    """
    logits_BTV = logits_BTV.astype(jnp.float32)
    log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    # A select and a sum, not a look-up: its gradient fuses with that of log Z, and the vocabulary may be sharded.
    is_target_BTV = jax.lax.broadcasted_iota(targets_BT.dtype, logits_BTV.shape, 2) == targets_BT[..., None]
    picked_BT = jnp.sum(jnp.where(is_target_BTV, logits_BTV, 0.0), axis=-1)
    return log_z_BT - picked_BT, log_z_BT


def token_losses(
    logits_BTV: jax.Array, targets_BT: jax.Array, loss_mask_BT: jax.Array, z_loss: float
) -> tuple[jax.Array, jax.Array]:
    """Sums over the tokens that count.

    Args:
      logits_BTV, targets_BT: as for `cross_entropy`.
      loss_mask_BT: the weight of each token, 0 for padding and across documents.
      z_loss: the coefficient of log^2 Z.

    Returns:
      The sum of weighted cross-entropies, and that sum plus the z-loss: what is reported and what is minimised.
    """
    nll_BT, log_z_BT = cross_entropy(logits_BTV, targets_BT)
    nll = jnp.sum(nll_BT * loss_mask_BT)
    if z_loss == 0:
        return nll, nll
    return nll, nll + z_loss * jnp.sum(jnp.square(log_z_BT) * loss_mask_BT)


def with_model_losses(objective: jax.Array, losses: Mapping[str, jax.Array]) -> jax.Array:
    """What is minimised, with the losses that the model itself has; all are sums over the tokens that count."""
    for loss in losses.values():
        objective = objective + loss
    return objective
