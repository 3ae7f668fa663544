"""What every kind of attention does once it has its queries, keys and values: score, weigh, sum."""

import math

import jax

from model.kernels.blocks import Scoring, attend, attention_weights
from model.positions.alibi import slopes
from model.taps import Context


def attend_heads(
    context: Context,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
    reductions: str,
    sink_N: jax.Array | None = None,
    causal: bool,
    dropout: float,
) -> jax.Array:
    """`model.kernels.attend` with the mask, positions and dropout of a layer's context, which is offered the weights.

    Args:
      context: of the layer.
      q_BTNH, k_BSKH, v_BSKH: queries, keys and values.
      scale, softcap, reductions: as in `Scoring`.
      sink_N: as in `attend`.
      causal: as in `attend`; not with a cache.
      dropout: the share of weights dropped while training.
    """
    mask_BTS, places, bias = context.mask_BTS, context.places, context.bias
    assert mask_BTS is not None
    scoring = Scoring(scale, softcap, reductions)
    if bias is not None:
        scoring = Scoring(scale, softcap, reductions, slopes(q_BTNH.shape[2]), bias.scale, bias.rounded)
    context.offer("attention_weights", lambda: attention_weights(q_BTNH, k_BSKH, mask_BTS, scoring, places, sink_N))
    key = context.next_dropout_key() if dropout else None
    return attend(
        q_BTNH,
        k_BSKH,
        v_BSKH,
        mask_BTS,
        scoring,
        places,
        sink_N,
        causal=causal,
        reach=context.reach,
        dropout=dropout,
        dropout_key=key,
    )


def divisors(number: int) -> list[int]:
    """The whole numbers from 1 that divide a positive one, in order: numbers of heads that it can be shared among."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]
