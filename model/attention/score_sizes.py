"""How large attention scores are, without an array of all queries times all keys: for statistics, not for attention.

Growing scores are an early sign of instability (Wortsman et al. 2023, "Small-scale proxies for large-scale Transformer
training instabilities", section 3.1).
"""

import functools

import jax
import jax.numpy as jnp

from model.kernels.scoring import Bias, Scoring
from model.kernels.visibility import Visibility

# The queries of a block: with all keys of a row they have the scores that are in memory at once.
BLOCK = 128


def score_sizes(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    visibility: Visibility,
    scoring: Scoring,
    weights_BT: jax.Array | None,
    bias: Bias | None = None,
) -> jax.Array:
    """Returns the largest score and the sum of mean squares of every head in every row, float32 (B, N, 2).

    Scores are those before softmax: scaled, soft-capped, biased. The maximum is over the queries with a weight above 0
    and their visible keys, the lowest float32 in a row without such queries. The sum is over queries with their
    weights; the mean of a query is over its visible keys.

    Args:
      q_BTNH, k_BSKH, visibility, scoring, bias: as for `model.kernels.attend`.
      weights_BT: the weight of each query; None for 1.
    """
    b, t, n, _ = q_BTNH.shape
    size = min(BLOCK, t)
    count = -(-t // size)
    weights_BT = jnp.ones((b, t), jnp.float32) if weights_BT is None else weights_BT.astype(jnp.float32)
    more = count * size - t
    q_BTNH, k_BSKH = jax.lax.stop_gradient((q_BTNH, k_BSKH))
    q_BKGTH = jnp.pad(scoring.scale_and_group(q_BTNH, k_BSKH.shape[2]), (*((0, 0),) * 3, (0, more), (0, 0)))
    weights_BT = jnp.pad(weights_BT, ((0, 0), (0, more)))
    block = functools.partial(
        _block_sizes,
        q_BKGTH,
        k_BSKH.swapaxes(1, 2),
        visibility.padded(count * size, k_BSKH.shape[1]),
        scoring,
        weights_BT,
        jax.lax.stop_gradient(bias),
        size,
    )
    largest, squares = jax.lax.map(block, jnp.arange(count) * size) if count > 1 else (x[None] for x in block(0))
    return jnp.stack([jnp.max(largest, axis=0), jnp.sum(squares, axis=0)], axis=-1).reshape(b, n, 2)


def _block_sizes(
    q_BKGTH: jax.Array,
    k_BKSH: jax.Array,
    visibility: Visibility,
    scoring: Scoring,
    weights_BT: jax.Array,
    bias: Bias | None,
    size: int,
    start: int | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns the maximum and the sum of one block of queries, each (B, K, G)."""
    q_BKGTH = jax.lax.dynamic_slice_in_dim(q_BKGTH, start, size, axis=3)
    weights_B11T = jax.lax.dynamic_slice_in_dim(weights_BT, start, size, axis=1)[:, None, None]
    visible = visibility.sliced(start, size, 0, k_BKSH.shape[2])
    scores_BKGTS = scoring.scores(scoring.products(q_BKGTH, k_BKSH), visible, bias).astype(jnp.float32)
    mask_BTS = visible.mask()
    seen_B11TS = jnp.ones((1, 1, 1, 1, 1), bool) if mask_BTS is None else mask_BTS[:, None, None]
    lowest = jnp.finfo(jnp.float32).min
    counted = seen_B11TS & (weights_B11T[..., None] > 0)
    largest_BKG = jnp.max(jnp.where(counted, scores_BKGTS, lowest), axis=(3, 4))
    number_B11T = jnp.sum(jnp.broadcast_to(seen_B11TS, (*seen_B11TS.shape[:-1], k_BKSH.shape[2])), axis=-1)
    squares_BKGT = jnp.sum(jnp.where(seen_B11TS, jnp.square(scores_BKGTS), 0.0), axis=-1) / jnp.maximum(number_B11T, 1)
    return largest_BKG, jnp.sum(squares_BKGT * weights_B11T, axis=-1)
