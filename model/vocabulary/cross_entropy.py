"""The cross-entropy of next-token scores, written once."""

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
