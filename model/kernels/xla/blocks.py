"""Attention in a few blocks of queries, each with all keys that it may see, and with a hand-written derivative.

It is for sequences whose blocks have few scores: the largest number of scores of a block and the number of blocks
depend on the platform. Every block makes its own mask and biases, and keeps only sums over its keys for the backward
pass.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from model.kernels.request import Request
from model.kernels.scoring import Bias, Scoring
from model.kernels.visibility import Visibility
from model.kernels.xla import cpu
from model.kernels.xla.dropped import drop_weights

# For platforms without a file of their own: the queries of a block, the maximum number of unrolled blocks, and the
# maximum number of scores of a block for each row and head. A compiler may hold the scores of several blocks at once,
# so these are for sequences of which all scores fit: up to 1,024 tokens that see each other.
BLOCK_SIZE, MAX_BLOCKS, MAX_SCORES = 256, 4, 2**18


@dataclasses.dataclass(frozen=True)
class Blocks:
    """See the module docstring; Vaswani et al. 2017, equation 1, and Ainslie et al. 2023, "GQA"."""

    name: str = "blocks"
    platforms: tuple[str, ...] = ()

    def supports(self, request: Request) -> str | None:
        """Returns None unless there are too many scores for unrolled blocks."""
        plan, max_scores = self.plan(request), cpu.MAX_SCORES if request.platform == "cpu" else MAX_SCORES
        largest = max((b - a) * (d - c) for (a, b), (c, d) in plan)
        if largest > max_scores:
            return f"its largest block would have {largest:,} scores a head, more than {max_scores:,}"
        return None

    def plan(self, request: Request) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Returns the first and the end of each block of queries, and those of its keys."""
        visibility, length = request.visibility, request.q.shape[1]
        if not visibility.skips_keys:
            blocks = 1
        elif request.platform == "cpu":
            blocks = cpu.block_count(length, visibility.reach)
        else:
            blocks = min(MAX_BLOCKS, -(-length // BLOCK_SIZE))
        size = -(-length // blocks)
        bounds = [(start, min(start + size, length)) for start in range(0, length, size)]
        return [(queries, visibility.key_span(*queries)) for queries in bounds]

    def attend(
        self,
        request: Request,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        sink_N: jax.Array | None,
        dropout_keys: jax.Array | None,
    ) -> jax.Array:
        """See `Kernel`."""
        scoring, visibility = request.scoring, request.visibility
        q_BKGTH = scoring.scale_and_group(q_BTNH, k_BSKH.shape[2])
        k_BKSH, v_BKSH = k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2)
        sink_KG = None if sink_N is None else sink_N.reshape(q_BKGTH.shape[1:3])
        parts = []
        for (start, stop), (first, last) in self.plan(request):
            q, k, v = q_BKGTH[..., start:stop, :], k_BKSH[..., first:last, :], v_BKSH[..., first:last, :]
            arrays = (q, k, v, visibility.sliced(start, stop - start, first, last - first))
            parts.append(_attend(scoring, request.dropout, *arrays, request.bias, sink_KG, dropout_keys))
        y_BKGTH = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=3)
        return y_BKGTH.reshape(q_BTNH.shape[0], -1, q_BTNH.shape[1], v_BSKH.shape[-1]).swapaxes(1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    scoring: Scoring,
    rate: float,
    q_BKGTH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    visibility: Visibility,
    bias: Bias | None,
    sink: jax.Array | None,
    dropout_keys: jax.Array | None,
) -> jax.Array:
    """Computes one block of queries. Its derivative keeps no T x S array: it recomputes weights from queries and keys.

    Dao et al. 2022, "FlashAttention", appendix B, without the tiles. Normalising the output instead of the weights, and
    row sums of dY * Y in place of sums over keys, also come from that paper. Where layers are unrolled instead of
    scanned, a compiler may find the scores of the forward pass and keep them; preventing this cost a fifth of a step on
    a CPU and saved no memory there (tests/benchmarks/README.md).
    """
    return _forward(scoring, rate, q_BKGTH, k_BKSH, v_BKSH, visibility, bias, sink, dropout_keys)[0]


def _forward(
    scoring: Scoring,
    rate: float,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    visibility: Visibility,
    bias: Bias | None,
    sink: jax.Array | None,
    dropout_keys: jax.Array | None,
) -> tuple[jax.Array, tuple[Any, ...]]:
    scores_BKGTS = scoring.scores(scoring.products(q, k), visibility, bias)
    row_max_BKGT1 = jnp.max(scores_BKGTS, axis=-1, keepdims=True)
    if sink is not None:
        sink_KG11 = sink.astype(scores_BKGTS.dtype)[..., None, None]
        row_max_BKGT1 = jnp.maximum(row_max_BKGT1, sink_KG11)
    weights_BKGTS = jnp.exp(scores_BKGTS - row_max_BKGT1)
    row_sum_BKGT1 = jnp.sum(weights_BKGTS, axis=-1, keepdims=True)
    if sink is not None:
        row_sum_BKGT1 = row_sum_BKGT1 + jnp.exp(sink_KG11 - row_max_BKGT1)
    kept_BKGTS = drop_weights(weights_BKGTS, rate, dropout_keys, visibility).astype(v.dtype)
    y_BKGTH = jnp.einsum("BKGTS,BKSH->BKGTH", kept_BKGTS, v, preferred_element_type=row_sum_BKGT1.dtype)
    y_BKGTH = (y_BKGTH / row_sum_BKGT1).astype(v.dtype)
    return y_BKGTH, (q, k, v, visibility, bias, sink, dropout_keys, y_BKGTH, row_max_BKGT1, row_sum_BKGT1)


def _backward(scoring: Scoring, rate: float, residuals: tuple[Any, ...], dy_BKGTH: jax.Array) -> tuple[Any, ...]:
    q, k, v, visibility, bias, sink, dropout_keys, y_BKGTH, row_max_BKGT1, row_sum_BKGT1 = residuals
    to_scores = lambda s, bias: scoring.scores(s, visibility, bias)  # noqa: E731
    scores_BKGTS, pullback = jax.vjp(to_scores, scoring.products(q, k), bias)
    weights_BKGTS = jnp.exp(scores_BKGTS - row_max_BKGT1)
    dy_BKGTH = dy_BKGTH / row_sum_BKGT1  # the gradient of the output before normalisation
    delta_BKGT1 = jnp.sum(dy_BKGTH * y_BKGTH, axis=-1, keepdims=True)
    dy_BKGTH = dy_BKGTH.astype(v.dtype)
    kept_BKGTS = drop_weights(weights_BKGTS, rate, dropout_keys, visibility).astype(v.dtype)
    dv = jnp.einsum("BKGTS,BKGTH->BKSH", kept_BKGTS, dy_BKGTH)
    dweights_BKGTS = jnp.einsum("BKGTH,BKSH->BKGTS", dy_BKGTH, v, preferred_element_type=weights_BKGTS.dtype)
    dscores_BKGTS = weights_BKGTS * (drop_weights(dweights_BKGTS, rate, dropout_keys, visibility) - delta_BKGT1)
    dproducts_BKGTS, dbias = pullback(dscores_BKGTS.astype(scores_BKGTS.dtype))
    dproducts_BKGTS = dproducts_BKGTS.astype(q.dtype)
    dq = jnp.einsum("BKGTS,BKSH->BKGTH", dproducts_BKGTS, k)
    dk = jnp.einsum("BKGTS,BKGTH->BKSH", dproducts_BKGTS, q)
    return dq, dk, dv, None, dbias, sink_gradient(sink, row_max_BKGT1, delta_BKGT1), None


def sink_gradient(sink_KG: jax.Array | None, row_max_BKGT1: jax.Array, delta_BKGT1: jax.Array) -> jax.Array | None:
    """Returns the gradient of the sinks, which are the scores of a key whose value is zero.

    Args:
      sink_KG: the sinks, or None.
      row_max_BKGT1: the maximum that was subtracted from the scores of each query before `exp`.
      delta_BKGT1: the sum over keys of weight times gradient of the weight, both before normalisation.
    """
    if sink_KG is None:
        return None
    dsink_BKGT1 = -jnp.exp(sink_KG.astype(row_max_BKGT1.dtype)[..., None, None] - row_max_BKGT1) * delta_BKGT1
    return jnp.sum(dsink_BKGT1, axis=(0, 3, 4)).astype(sink_KG.dtype)


_attend.defvjp(_forward, _backward)
