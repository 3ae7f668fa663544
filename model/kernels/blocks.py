"""attend(q, k, v, mask): the one door to attention, behind which there is one kernel so far, written out for XLA."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from model.dropout import drop

# Causal queries are taken in up to this many blocks, of no fewer queries than that; in more where they see a few keys.
MOST_BLOCKS, SMALLEST_BLOCK, MOST_BLOCKS_OF_WINDOWS = 4, 64, 16

# The positions of queries (B, T) and of keys (B, S), where scores depend on them; a batch may be 1.
Places = tuple[jax.Array, jax.Array] | None


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How a query scores a key: scale * q k, perhaps soft-capped, perhaps less the farther away the key is.

    In this order: products, soft-cap, linear bias, mask. The soft-cap c * tanh(s / c) is Gemma 2's (2024, section 2);
    it bounds what queries and keys say and leaves the bias whole. The bias is that of ALiBi (model/positions/alibi.py),
    bias_scale * slope_n * (position of the key - position of the query).

    Attributes:
      scale: the factor on products, usually H^-1/2.
      softcap: c, or None for none.
      reductions: the dtype of scores and softmax.
      slopes: one for each query head (N), or None for no bias.
      bias_scale: see above.
      rounded: whether slopes, positions and their products are rounded to bfloat16.
    """

    scale: float
    softcap: float | None = None
    reductions: str = "float32"
    slopes: tuple[float, ...] | None = None
    bias_scale: float = 1.0
    rounded: bool = False

    def products(self, q_BKGTH: jax.Array, k_BKSH: jax.Array) -> jax.Array:
        """q k, (B, K, G, T, S), of queries that are scaled already."""
        return jnp.einsum("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH, preferred_element_type=jnp.dtype(self.reductions))

    def finish(self, s_BKGTS: jax.Array, mask_BTS: jax.Array, places: Places) -> jax.Array:
        """Products to scores: capped, biased, and the lowest number where a query may not see a key."""
        if self.softcap is not None:
            s_BKGTS = self.softcap * jnp.tanh(s_BKGTS / self.softcap)
        if self.slopes is not None:
            assert places is not None
            s_BKGTS = s_BKGTS + self._bias(places, s_BKGTS.shape[1:3]).astype(s_BKGTS.dtype)
        return jnp.where(mask_BTS[:, None, None], s_BKGTS, jnp.finfo(s_BKGTS.dtype).min)

    def _bias(self, places: tuple[jax.Array, jax.Array], heads: tuple[int, ...]) -> jax.Array:
        """What is added for positions, float32 (B, K, G, T, S)."""
        query_BT, key_BS = places
        slope_KG11 = jnp.asarray(self.slopes, jnp.float32).reshape(*heads, 1, 1)
        if self.rounded:
            # Not a cast to bfloat16 and back, which a compiler may leave out.
            coarse = functools.partial(jax.lax.reduce_precision, exponent_bits=8, mantissa_bits=7)
            query, key = (coarse(place.astype(jnp.float32)) for place in (query_BT[..., None], key_BS[:, None]))
            query, key = (coarse(coarse(slope_KG11) * place[:, None, None]) for place in (query, key))
            bias_BKGTS = key - query
        else:
            distance_BTS = (key_BS[:, None, :] - query_BT[:, :, None]).astype(jnp.float32)
            bias_BKGTS = slope_KG11 * distance_BTS[:, None, None]
        return bias_BKGTS if self.bias_scale == 1 else self.bias_scale * bias_BKGTS


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask_BTS: jax.Array,
    scoring: Scoring,
    places: Places = None,
    sink_N: jax.Array | None = None,
    *,
    causal: bool = False,
    reach: int | None = None,
    dropout: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Grouped-query attention, softmax(scale * q k^T) v, written out for XLA.

    Vaswani et al. 2017, equation 1; groups of query heads share a key head (Ainslie et al. 2023, "GQA").

    Args:
      q_BTNH: queries; N is a multiple of K.
      k_BSKH, v_BSKH: keys and values.
      mask_BTS: True where a query sees a key; its batch may be 1.
      scoring: how scores are made of queries and keys.
      places: their positions, needed where scoring has slopes.
      sink_N: a score for each head that takes part in the softmax and has no value, so that a head may attend to
        nothing (OpenAI 2025, "gpt-oss-120b & gpt-oss-20b Model Card", section 2; Xiao et al. 2024, section 3.3).
      causal: whether query t may see no key after t, as the mask must also say. Then queries are taken in blocks, each
        against the keys up to its end, which leaves out most of what the mask would throw away.
      reach: where causal, how many keys up to its own a query may see, as the mask must also say; None for all. Then
        the keys before those are left out too.
      dropout: the share of weights dropped, where there is a key.
      dropout_key: a key while training, None in evaluation.

    Returns:
      (B, T, N, H), in the dtype of v, whose head width may be another than that of queries and keys.
    """
    q_BKGTH, k_BKSH, v_BKSH = _by_head(q_BTNH, k_BSKH, scoring), k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2)
    b, _, _, length, _ = q_BKGTH.shape
    reach = reach if causal else None
    most = MOST_BLOCKS if reach is None else max(MOST_BLOCKS, min(MOST_BLOCKS_OF_WINDOWS, length // reach))
    blocks = max(1, min(most, length // SMALLEST_BLOCK)) if causal else 1
    size, parts = -(-length // blocks), []
    sink_KG = None if sink_N is None else sink_N.reshape(q_BKGTH.shape[1:3])
    for start in range(0, length, size):
        stop = min(start + size, length)
        last = stop if causal else k_BKSH.shape[2]
        seen = slice(0 if reach is None else max(0, start - reach + 1), last)
        key = None if dropout_key is None or dropout == 0 else jax.random.fold_in(dropout_key, start)
        q, k, v = q_BKGTH[..., start:stop, :], k_BKSH[..., seen, :], v_BKSH[..., seen, :]
        near = None if places is None else (places[0][:, start:stop], places[1][:, seen])
        parts.append(_attend(scoring, dropout, q, k, v, mask_BTS[:, start:stop, seen], near, sink_KG, key))
    y_BKGTH = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=3)
    return y_BKGTH.reshape(b, -1, length, v_BKSH.shape[-1]).swapaxes(1, 2)


def attention_weights(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    mask_BTS: jax.Array,
    scoring: Scoring,
    places: Places = None,
    sink_N: jax.Array | None = None,
) -> jax.Array:
    """The weights (B, N, T, S) that `attend` gives to values before dropout, for those who want to look at them."""
    q_BKGTH = _by_head(q_BTNH, k_BSKH, scoring)
    scores_BKGTS = scoring.finish(scoring.products(q_BKGTH, k_BSKH.swapaxes(1, 2)), mask_BTS, places)
    b, _, _, t, s = scores_BKGTS.shape
    if sink_N is not None:
        sink_KG11 = sink_N.astype(scores_BKGTS.dtype).reshape(*scores_BKGTS.shape[1:3], 1, 1)
        sink_BKGT1 = jnp.broadcast_to(sink_KG11, (*scores_BKGTS.shape[:-1], 1))
        scores_BKGTS = jnp.concatenate([scores_BKGTS, sink_BKGT1], axis=-1)
    return jax.nn.softmax(scores_BKGTS, axis=-1)[..., :s].reshape(b, -1, t, s).astype(q_BTNH.dtype)


def _by_head(q_BTNH: jax.Array, k_BSKH: jax.Array, scoring: Scoring) -> jax.Array:
    """Scaled queries as (B, K, G, T, H): neighbouring query heads share a key head."""
    b, t, _, h = q_BTNH.shape
    q_BNTH = (q_BTNH * jnp.asarray(scoring.scale, q_BTNH.dtype)).swapaxes(1, 2)
    return q_BNTH.reshape(b, k_BSKH.shape[2], -1, t, h)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    scoring: Scoring,
    rate: float,
    q_BKGTH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    mask_BTS: jax.Array,
    places: Places,
    sink: jax.Array | None,
    key: jax.Array | None,
) -> jax.Array:
    """One block of queries. Its derivative asks for no array of T x S: weights are made again from queries and keys.

    Dao et al. 2022, "FlashAttention", appendix B, without the tiles. Normalising the output instead of the weights, and
    the row sums of dY * Y in place of those over keys, are that paper's too. Where layers are written out instead of
    scanned, a compiler may find the scores in the forward pass and keep them; forbidding it cost a fifth of a step
    on a CPU and saved no memory there (tests/benchmarks/README.md).
    """
    return _forward(scoring, rate, q_BKGTH, k_BKSH, v_BKSH, mask_BTS, places, sink, key)[0]


def _forward(
    scoring: Scoring,
    rate: float,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    places: Places,
    sink: jax.Array | None,
    key: jax.Array | None,
) -> tuple[jax.Array, tuple[Any, ...]]:
    scores_BKGTS = scoring.finish(scoring.products(q, k), mask, places)
    highest_BKGT1 = jnp.max(scores_BKGTS, axis=-1, keepdims=True)
    if sink is not None:
        sink_KG11 = sink.astype(scores_BKGTS.dtype)[..., None, None]
        highest_BKGT1 = jnp.maximum(highest_BKGT1, sink_KG11)
    weights_BKGTS = jnp.exp(scores_BKGTS - highest_BKGT1)
    total_BKGT1 = jnp.sum(weights_BKGTS, axis=-1, keepdims=True)
    if sink is not None:
        total_BKGT1 = total_BKGT1 + jnp.exp(sink_KG11 - highest_BKGT1)
    kept_BKGTS = drop(weights_BKGTS, rate, key).astype(v.dtype)
    y_BKGTH = jnp.einsum("BKGTS,BKSH->BKGTH", kept_BKGTS, v, preferred_element_type=total_BKGT1.dtype)
    y_BKGTH = (y_BKGTH / total_BKGT1).astype(v.dtype)
    return y_BKGTH, (q, k, v, mask, places, sink, key, y_BKGTH, highest_BKGT1, total_BKGT1)


def _backward(scoring: Scoring, rate: float, residuals: tuple[Any, ...], dy_BKGTH: jax.Array) -> tuple[Any, ...]:
    q, k, v, mask, places, sink, key, y_BKGTH, highest_BKGT1, total_BKGT1 = residuals
    scores_BKGTS, pull = jax.vjp(lambda s: scoring.finish(s, mask, places), scoring.products(q, k))
    weights_BKGTS = jnp.exp(scores_BKGTS - highest_BKGT1)
    dy_BKGTH = dy_BKGTH / total_BKGT1  # of the output before normalisation
    shared_BKGT1 = jnp.sum(dy_BKGTH * y_BKGTH, axis=-1, keepdims=True)
    dy_BKGTH = dy_BKGTH.astype(v.dtype)
    kept_BKGTS = drop(weights_BKGTS, rate, key).astype(v.dtype)
    dv = jnp.einsum("BKGTS,BKGTH->BKSH", kept_BKGTS, dy_BKGTH)
    dweights_BKGTS = jnp.einsum("BKGTH,BKSH->BKGTS", dy_BKGTH, v, preferred_element_type=weights_BKGTS.dtype)
    dscores_BKGTS = weights_BKGTS * (drop(dweights_BKGTS, rate, key) - shared_BKGT1)
    dproducts_BKGTS = pull(dscores_BKGTS.astype(scores_BKGTS.dtype))[0].astype(q.dtype)
    dq = jnp.einsum("BKGTS,BKSH->BKGTH", dproducts_BKGTS, k)
    dk = jnp.einsum("BKGTS,BKGTH->BKSH", dproducts_BKGTS, q)
    dsink = None
    if sink is not None:  # a key whose value is zero
        dsink_BKGT1 = -jnp.exp(sink.astype(highest_BKGT1.dtype)[..., None, None] - highest_BKGT1) * shared_BKGT1
        dsink = jnp.sum(dsink_BKGT1, axis=(0, 3, 4)).astype(sink.dtype)
    return dq, dk, dv, None, None, dsink, None


_attend.defvjp(_forward, _backward)
