"""The cross-entropy of next-token scores: of whole logits, and of a stream whose logits are made chunk by chunk.

Where a device's logits are more than `BLOCK`, no array of all tokens times the vocabulary is made, neither forward nor
backward (model/vocabulary/chunks.py).
"""

import jax
import jax.numpy as jnp

from model.layout import Layout
from model.vocabulary import chunks
from model.vocabulary.chunks import Plan
from model.vocabulary.unembedding import Unembedding

# The most logits that one device makes at once: 256 MiB of float32. A chunk reads the weight and, backward, reads and
# writes the sum of its gradients in float32, so that from about 500 tokens on (a vocabulary of 128,000) accelerators
# wait for products and not for memory; more tokens gain nothing.
BLOCK = 2**26


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


def nll(
    stream_BTD: jax.Array, unembedding: Unembedding, targets_BT: jax.Array, layout: Layout
) -> tuple[jax.Array, jax.Array]:
    """`cross_entropy` of the logits of a stream, of which there are never more than `BLOCK` at once on a device.

    Args:
      stream_BTD: the residual stream after the final norm.
      unembedding: what makes logits of it.
      targets_BT: the ids that should come next.
      layout: how activations lie on devices.

    Returns:
      -log p(target) in nats and log Z, each float32 (B, T).
    """
    plan = _plan(unembedding, targets_BT, layout)
    if plan is None:
        return cross_entropy(unembedding.logits(stream_BTD, layout), targets_BT)
    return chunks.nll(plan, stream_BTD, unembedding.w_DV, unembedding.bias_V, targets_BT)


def total_nll(
    stream_BTD: jax.Array,
    unembedding: Unembedding,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    layout: Layout,
    z_loss: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """What training sums up of `nll`. The products of a backward pass are three, as of whole logits, and not four.

    Args:
      stream_BTD, unembedding, targets_BT, layout: as for `nll`.
      weights_BT: how much each token counts, float32.
      z_loss: the coefficient of log^2 Z.

    Returns:
      The sum of weighted cross-entropies, which has no gradient, and that sum plus the z-loss, which has: what is
      reported and what is minimised.
    """
    plan = _plan(unembedding, targets_BT, layout)
    if plan is not None and not plan.vocab.mesh_axes:
        reported, minimised = chunks.total(
            plan, z_loss, stream_BTD, unembedding.w_DV, unembedding.bias_V, targets_BT, weights_BT
        )
    else:
        reported, minimised = chunks.weighted(*nll(stream_BTD, unembedding, targets_BT, layout), weights_BT, z_loss)
    return jax.lax.stop_gradient(reported), minimised


def _plan(unembedding: Unembedding, targets_BT: jax.Array, layout: Layout) -> Plan | None:
    """How chunks are made; None where all logits of a device are no more than one may have."""
    shape = (*targets_BT.shape, unembedding.w_DV.shape[1])
    shardings = layout.axis_shardings(shape, ("batch", "vocab_sequence", "vocab"))
    rows, length, vocab = (size // sharding.ways for size, sharding in zip(shape, shardings, strict=True))
    count = chunk_count(rows * length, vocab)
    return None if count == 1 else Plan(layout, shardings[:2], shardings[2], count, unembedding.finish)


def chunk_count(tokens: int, vocab_size: int) -> int:
    """In how many chunks: the fewest that `BLOCK` allows, or up to twice as many where those are of one size."""
    least = -(-tokens // max(1, BLOCK // vocab_size))
    return next((count for count in range(least, 2 * least) if tokens % count == 0), least)
