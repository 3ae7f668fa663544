"""How well each token was predicted, beside its loss: entropy, confidence, rank of the target; logits in chunks.

With scores s_v of a token and p = softmax(s):

    entropy     H = -sum over v of p_v log p_v = log Z - sum over v of p_v s_v
    confidence  max over v of p_v
    rank        the number of v with s_v > s_target, or with s_v = s_target and v < target

The target is among the k likeliest tokens if its rank is below k. No array of all tokens times the vocabulary is made:
a device computes the logits of a chunk, as for the loss. Where the vocabulary is split, the devices exchange the
targets' scores in every chunk, since each counts its own scores above them; all other sums are exchanged once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.layout import Layout
from model.vocabulary.cross_entropy import plan_chunks
from model.vocabulary.unembedding import Unembedding


class TokenStatistics(NamedTuple):
    """Of each token: -log p(target) in nats, entropy in nats, highest probability, each float32 (B, T); rank, int32."""

    nll_BT: jax.Array
    entropy_BT: jax.Array
    confidence_BT: jax.Array
    rank_BT: jax.Array


def token_statistics(
    stream_BTD: jax.Array, unembedding: Unembedding, targets_BT: jax.Array, layout: Layout
) -> TokenStatistics:
    """Returns the statistics of each token; a device makes at most `cross_entropy.MAX_LOGITS` logits at once.

    Args:
      stream_BTD: the residual stream after the final norm.
      unembedding: the map from the stream to logits.
      targets_BT: the ids of the next tokens.
      layout: the layout of activations over devices.
    """
    plan = plan_chunks(unembedding, targets_BT, layout)
    names = plan.vocab.mesh_axes

    def on_device(
        x_BTD: jax.Array, w_DV: jax.Array, bias_V: jax.Array | None, targets_BT: jax.Array
    ) -> tuple[jax.Array, ...]:
        def chunk_step(_: None, inputs: tuple[jax.Array, jax.Array]) -> tuple[None, tuple[jax.Array, ...]]:
            x_CD, target_C = inputs
            scores_CV = plan.transform(plan.products(x_CD, w_DV), bias_V).astype(jnp.float32)
            highest_C, total_C, target_score_C = plan.partial_softmax(scores_CV, target_C)
            if names:
                target_score_C = jax.lax.psum(target_score_C, names)
            below_CV = scores_CV - highest_C[:, None]
            weight_CV = jnp.exp(below_CV)
            weighted_C = jnp.sum(jnp.where(weight_CV > 0, weight_CV * below_CV, 0.0), axis=-1)
            earlier_CV = jax.lax.broadcasted_iota(target_C.dtype, scores_CV.shape, 1) < plan.local_target(
                target_C, scores_CV
            )
            equal_CV = scores_CV == target_score_C[:, None]
            above_CV = (scores_CV > target_score_C[:, None]) | (equal_CV & earlier_CV)
            rank_C = jnp.sum(above_CV, axis=-1, dtype=jnp.int32)
            return None, (highest_C, total_C, target_score_C, weighted_C, rank_C)

        _, sums = jax.lax.scan(chunk_step, None, (plan.split_chunks(x_BTD), plan.split_chunks(targets_BT)))
        highest_BT, total_BT, target_score_BT, weighted_BT, rank_BT = (plan.join_chunks(x, targets_BT) for x in sums)
        if names:
            local_BT, highest_BT = highest_BT, jax.lax.pmax(highest_BT, names)
            factor_BT = jnp.exp(local_BT - highest_BT)
            weighted_BT = factor_BT * (weighted_BT + (local_BT - highest_BT) * total_BT)
            total_BT, weighted_BT, rank_BT = jax.lax.psum((total_BT * factor_BT, weighted_BT, rank_BT), names)
        log_total_BT = jnp.log(total_BT)
        nll_BT, entropy_BT = highest_BT + log_total_BT - target_score_BT, log_total_BT - weighted_BT / total_BT
        return nll_BT, entropy_BT, 1 / total_BT, rank_BT

    x_BTD = unembedding.projected(stream_BTD, layout)
    shard_mapped = layout.shard_map(on_device, plan.axes, (plan.tokens,) * 4)
    bias_V = None if unembedding.bias_V is None else unembedding.bias_V.astype(x_BTD.dtype)
    return TokenStatistics(*shard_mapped(x_BTD, unembedding.w_DV.astype(x_BTD.dtype), bias_V, targets_BT))
