"""Cross-entropy of next-token logits: of whole logits, or of a stream whose logits are computed chunk by chunk.

If a device has more logits than `MAX_LOGITS`, neither the forward nor the backward pass makes an array of all tokens
times the vocabulary (model/vocabulary/chunked_cross_entropy.py).
"""

import jax
import jax.numpy as jnp

from model.layout import Layout
from model.vocabulary import chunked_cross_entropy
from model.vocabulary.chunked_cross_entropy import ChunkPlan
from model.vocabulary.unembedding import Unembedding

# The most logits that one device makes at once: 256 MiB of float32. A chunk reads the weight and, backward, reads and
# writes the sum of its gradients in float32. From about 500 tokens on (a vocabulary of 128,000) the products take
# longer than this memory traffic on accelerators, so that larger chunks gain nothing.
MAX_LOGITS = 2**26


def cross_entropy(logits_BTV: jax.Array, targets_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the loss of each token and its log-normaliser.

    Args:
      logits_BTV: the logits; cast to float32.
      targets_BT: the ids of the next tokens.

    Returns:
      -log p(target) in nats and log Z, each float32 (B, T).
    """
    logits_BTV = logits_BTV.astype(jnp.float32)
    log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    # A select and a sum instead of a look-up: the gradient fuses with that of log Z, and the vocabulary may be sharded.
    is_target_BTV = jax.lax.broadcasted_iota(targets_BT.dtype, logits_BTV.shape, 2) == targets_BT[..., None]
    target_score_BT = jnp.sum(jnp.where(is_target_BTV, logits_BTV, 0.0), axis=-1)
    return log_z_BT - target_score_BT, log_z_BT


def nll(
    stream_BTD: jax.Array, unembedding: Unembedding, targets_BT: jax.Array, layout: Layout
) -> tuple[jax.Array, jax.Array]:
    """Returns `cross_entropy` of the logits of a stream; a device makes at most `MAX_LOGITS` logits at once.

    Args:
      stream_BTD: the residual stream after the final norm.
      unembedding: the map from the stream to logits.
      targets_BT: the ids of the next tokens.
      layout: the layout of activations over devices.

    Returns:
      -log p(target) in nats and log Z, each float32 (B, T).
    """
    plan = plan_chunks(unembedding, targets_BT, layout)
    if plan.num_chunks == 1:
        return cross_entropy(unembedding.logits(stream_BTD, layout), targets_BT)
    x_BTD = unembedding.projected(stream_BTD, layout)
    return chunked_cross_entropy.nll(plan, x_BTD, unembedding.w_DV, unembedding.bias_V, targets_BT)


def total_nll(
    stream_BTD: jax.Array,
    unembedding: Unembedding,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    layout: Layout,
    z_loss: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Returns the sums of `nll` that training needs; forward and backward need three products, as with whole logits.

    Args:
      stream_BTD, unembedding, targets_BT, layout: as for `nll`.
      weights_BT: the weight of each token, float32.
      z_loss: the coefficient of log^2 Z.

    Returns:
      The weighted sum of cross-entropies, to report, which has no gradient; and that sum plus the z-loss, to minimise,
      which has one.
    """
    plan = plan_chunks(unembedding, targets_BT, layout)
    if plan.num_chunks > 1 and not plan.vocab.mesh_axes:
        x_BTD = unembedding.projected(stream_BTD, layout)
        reported, minimised = chunked_cross_entropy.total_nll(
            plan, z_loss, x_BTD, unembedding.w_DV, unembedding.bias_V, targets_BT, weights_BT
        )
    else:
        reported, minimised = chunked_cross_entropy.weighted_sums(
            *nll(stream_BTD, unembedding, targets_BT, layout), weights_BT, z_loss
        )
    return jax.lax.stop_gradient(reported), minimised


def plan_chunks(unembedding: Unembedding, targets_BT: jax.Array, layout: Layout) -> ChunkPlan:
    """Returns the plan of the chunks; it has one chunk if all logits of a device fit into it."""
    shape = (*targets_BT.shape, unembedding.w_DV.shape[1])
    shardings = layout.axis_shardings(shape, ("batch", "vocab_sequence", "vocab"))
    rows, length, vocab = (size // sharding.ways for size, sharding in zip(shape, shardings, strict=True))
    count = count_chunks(rows * length, vocab)
    return ChunkPlan(layout, shardings[:2], shardings[2], count, unembedding.transform)


def count_chunks(tokens: int, vocab_size: int) -> int:
    """Returns the fewest chunks that `MAX_LOGITS` allows, or up to twice as many if these have equal sizes."""
    least = -(-tokens // max(1, MAX_LOGITS // vocab_size))
    return next((count for count in range(least, 2 * least) if tokens % count == 0), least)
