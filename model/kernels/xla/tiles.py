"""Attention in tiles of queries and keys, one after the other in loops, for sequences of any length.

Dao et al. 2022, "FlashAttention", algorithms 1 and 4, for XLA: the sums over a query's keys grow tile by tile, together
with the maximum of the scores so far. No array grows with queries times keys. Tiles whose queries see none of their
keys by index, because of causality or a window, are left out.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from model.kernels.request import Request
from model.kernels.scoring import Bias, Scoring
from model.kernels.visibility import Visibility
from model.kernels.xla.blocks import sink_gradient
from model.kernels.xla.dropped import drop_weights


@dataclasses.dataclass(frozen=True)
class Tiles:
    """See the module docstring.

    Attributes:
      queries, keys: the number of queries and keys of a tile.
      name, platforms: see `Kernel`.
    """

    queries: int = 512
    keys: int = 512
    name: str = "tiles"
    platforms: tuple[str, ...] = ()

    def supports(self, request: Request) -> str | None:
        """Returns None: this kernel takes every request."""
        return None

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
        (b, t, n, _), s = q_BTNH.shape, k_BSKH.shape[1]
        sizes = TileSizes(min(self.queries, t), min(self.keys, s), s)
        pad_t, pad_s = -t % sizes.queries, -s % sizes.keys
        pad = lambda x, count: jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, count), (0, 0)]) if count else x  # noqa: E731
        q_BKGTH = pad(request.scoring.scale_and_group(q_BTNH, k_BSKH.shape[2]), pad_t)
        k_BKSH, v_BKSH = (pad(x.swapaxes(1, 2), pad_s) for x in (k_BSKH, v_BSKH))
        visibility = request.visibility.padded(t + pad_t, s + pad_s)
        sink_KG = None if sink_N is None else sink_N.reshape(q_BKGTH.shape[1:3])
        arrays = (q_BKGTH, k_BKSH, v_BKSH, visibility, request.bias, sink_KG, dropout_keys)
        y_BKGTH = _attend(request.scoring, request.dropout, sizes, *arrays)[..., :t, :]
        return y_BKGTH.reshape(b, n, t, v_BSKH.shape[-1]).swapaxes(1, 2)


@dataclasses.dataclass(frozen=True)
class TileSizes:
    """The numbers of queries and keys of a tile, and of all real keys; the keys after them fill the last tile."""

    queries: int
    keys: int
    real_keys: int


@struct.dataclass
class Sums:
    """The sums of each query over the keys so far.

    Attributes:
      y: (B, K, G, T, H), the sum of weighted values, not normalised.
      row_max: (B, K, G, T, 1), the largest score.
      row_sum: (B, K, G, T, 1), the sum of exp(score - row_max).
    """

    y: jax.Array
    row_max: jax.Array
    row_sum: jax.Array

    def with_keys(self, row_max: jax.Array, weights: jax.Array, kept: jax.Array, v_BKSH: jax.Array) -> "Sums":
        """Returns the sums over further keys too.

        Args:
          row_max: the largest score of all keys so far, these included.
          weights: exp(score - row_max) of these keys, (B, K, G, T, S).
          kept: the weights that dropout keeps, scaled; else `weights`.
          v_BKSH: their values.
        """
        rescale = jnp.exp(self.row_max - row_max)
        added = jnp.einsum("BKGTS,BKSH->BKGTH", kept.astype(v_BKSH.dtype), v_BKSH, preferred_element_type=self.y.dtype)
        row_sum = self.row_sum * rescale + jnp.sum(weights, axis=-1, keepdims=True)
        return Sums(self.y * rescale + added, row_max, row_sum)


@dataclasses.dataclass(frozen=True)
class Tiling:
    """The computation of scores tile by tile; i numbers tiles of queries, and j tiles of keys."""

    scoring: Scoring
    rate: float
    sizes: TileSizes
    k_BKSH: jax.Array
    v_BKSH: jax.Array
    visibility: Visibility
    dropout_keys: jax.Array | None

    def key_tiles(self, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the first and the end of the key tiles that the queries of tile i may see."""
        first, last = self.visibility.key_span(i * self.sizes.queries, (i + 1) * self.sizes.queries)
        return first // self.sizes.keys, (last + self.sizes.keys - 1) // self.sizes.keys

    def queries(self, x: jax.Array, i: jax.Array) -> jax.Array:
        """Returns the queries of tile i from an array whose second last axis is the queries."""
        return jax.lax.dynamic_slice_in_dim(x, i * self.sizes.queries, self.sizes.queries, axis=x.ndim - 2)

    def keys(self, j: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the keys and values of tile j."""
        start, size = j * self.sizes.keys, self.sizes.keys
        k, v = (jax.lax.dynamic_slice_in_dim(x, start, size, axis=2) for x in (self.k_BKSH, self.v_BKSH))
        return k, v

    def add_keys(self, q_i: jax.Array, bias: Bias | None, i: jax.Array, sums: Sums) -> Sums:
        """Adds the keys that the queries of tile i see to their sums."""

        def add_tile(j: jax.Array, sums: Sums) -> Sums:
            k_j, v_j = self.keys(j)
            scores = self.scores(self.scoring.products(q_i, k_j), bias, i, j)
            row_max = jnp.maximum(sums.row_max, jnp.max(scores, axis=-1, keepdims=True))
            weights = jnp.exp(scores - row_max)
            return sums.with_keys(row_max, weights, self.drop(weights, i, j), v_j)

        return jax.lax.fori_loop(*self.key_tiles(i), add_tile, sums)

    def gradients(
        self, q: jax.Array, bias: Bias | None, row_max: jax.Array, delta: jax.Array, dy: jax.Array, sums: Any, to: Any
    ) -> tuple[jax.Array, Any]:
        """Returns the gradient of queries, and adds those of keys, values and bias to `sums`.

        Args:
          q: scaled queries.
          bias: the bias.
          row_max: the largest score of each query, over all of its keys.
          delta, dy: see `gradient_of_sums`.
          sums: gradients of keys, values and bias.
          to: the dtype of the gradient of queries.
        """
        dtype = sum_dtype(self.scoring)

        def query_tile(sums: Any, i: jax.Array) -> tuple[Any, jax.Array]:
            q_i, dy_i, row_max_i, delta_i = (self.queries(x, i) for x in (q, dy, row_max, delta))

            def add_tile(j: jax.Array, sums: Any) -> Any:
                dq_i, dk, dv, dbias = sums
                k_j, v_j = self.keys(j)
                products = self.scoring.products(q_i, k_j)
                scores, pullback = jax.vjp(lambda s, b: self.scores(s, b, i, j), products, bias)
                weights = jnp.exp(scores - row_max_i)
                kept = self.drop(weights, i, j).astype(v_j.dtype)
                dweights = jnp.einsum("BKGTH,BKSH->BKGTS", dy_i, v_j, preferred_element_type=dtype)
                dscores = weights * (self.drop(dweights, i, j) - delta_i)
                dproducts, dbias_tile = pullback(dscores.astype(scores.dtype))
                dproducts, sum_in = dproducts.astype(q.dtype), {"preferred_element_type": dtype}
                dk = _add_to_tile(dk, j, jnp.einsum("BKGTS,BKGTH->BKSH", dproducts, q_i, **sum_in))
                dv = _add_to_tile(dv, j, jnp.einsum("BKGTS,BKGTH->BKSH", kept, dy_i, **sum_in))
                dq_i = dq_i + jnp.einsum("BKGTS,BKSH->BKGTH", dproducts, k_j, **sum_in)
                return dq_i, dk, dv, jax.tree.map(jnp.add, dbias, dbias_tile)

            dq_i, *sums = jax.lax.fori_loop(*self.key_tiles(i), add_tile, (jnp.zeros(q_i.shape, dtype), *sums))
            return tuple(sums), dq_i.astype(to)

        sums, dq = jax.lax.scan(query_tile, sums, jnp.arange(q.shape[3] // self.sizes.queries))
        return jnp.moveaxis(dq, 0, 3).reshape(q.shape), sums

    def scores(self, products: jax.Array, bias: Bias | None, i: jax.Array, j: jax.Array) -> jax.Array:
        """Turns products of tile (i, j) into scores; keys that only fill the tile get -inf."""
        t, s = self.sizes.queries, self.sizes.keys
        scores = self.scoring.scores(products, self.visibility.sliced(i * t, t, j * s, s), bias)
        if self.k_BKSH.shape[2] == self.sizes.real_keys:
            return scores
        return jnp.where(j * s + jnp.arange(s) < self.sizes.real_keys, scores, -jnp.inf)

    def drop(self, x: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
        """Drops entries of the weights of tile (i, j), or of their gradients; drops the same entries each time."""
        t, s = self.sizes.queries, self.sizes.keys
        return drop_weights(x, self.rate, self.dropout_keys, self.visibility.sliced(i * t, t, j * s, s))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(
    scoring: Scoring,
    rate: float,
    sizes: TileSizes,
    q_BKGTH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    visibility: Visibility,
    bias: Bias | None,
    sink: jax.Array | None,
    dropout_keys: jax.Array | None,
) -> jax.Array:
    return _forward(scoring, rate, sizes, q_BKGTH, k_BKSH, v_BKSH, visibility, bias, sink, dropout_keys)[0]


def _forward(
    scoring: Scoring,
    rate: float,
    sizes: TileSizes,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    visibility: Visibility,
    bias: Bias | None,
    sink: jax.Array | None,
    dropout_keys: jax.Array | None,
) -> tuple[jax.Array, tuple[Any, ...]]:
    tiling = Tiling(scoring, rate, sizes, k, v, visibility, dropout_keys)
    rows = (*q.shape[:3], sizes.queries)

    def query_tile(i: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        sums = tiling.add_keys(tiling.queries(q, i), bias, i, empty_sums(scoring, rows, v.shape[-1], sink))
        return normalised(sums, v.dtype), sums.row_max, sums.row_sum

    y, row_max, row_sum = (
        jnp.moveaxis(x, 0, 3).reshape(*q.shape[:4], x.shape[-1])
        for x in jax.lax.map(query_tile, jnp.arange(q.shape[3] // sizes.queries))
    )
    return y, (q, k, v, visibility, bias, sink, dropout_keys, y, row_max, row_sum)


def _backward(
    scoring: Scoring, rate: float, sizes: TileSizes, residuals: tuple[Any, ...], dy: jax.Array
) -> tuple[Any, ...]:
    q, k, v, visibility, bias, sink, dropout_keys, y, row_max, row_sum = residuals
    tiling, dtype = Tiling(scoring, rate, sizes, k, v, visibility, dropout_keys), sum_dtype(scoring)
    dy, delta = gradient_of_sums(y, row_sum, dy)
    zeros = jnp.zeros(k.shape, dtype), jnp.zeros(v.shape, dtype), jax.tree.map(jnp.zeros_like, bias)
    dq, (dk, dv, dbias) = tiling.gradients(q, bias, row_max, delta, dy, zeros, q.dtype)
    dsink = sink_gradient(sink, row_max, delta)
    return dq, dk.astype(k.dtype), dv.astype(v.dtype), None, dbias, dsink, None


def normalised(sums: Sums, dtype: Any) -> jax.Array:
    """Returns the weighted mean of values; zeros for queries without any tile."""
    return (sums.y / jnp.where(sums.row_sum == 0, 1, sums.row_sum)).astype(dtype)


def gradient_of_sums(y: jax.Array, row_sum: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the gradient of the output before normalisation, and the sum over keys of weight times its gradient."""
    dy = dy / jnp.where(row_sum == 0, 1, row_sum)
    return dy.astype(y.dtype), jnp.sum(dy * y, axis=-1, keepdims=True)


def empty_sums(scoring: Scoring, rows: tuple[int, ...], width: int, sink_KG: jax.Array | None) -> Sums:
    """Returns the sums of queries (B, K, G, T) = `rows` before the first key; a sink is a key whose value is zero."""
    dtype = sum_dtype(scoring)
    y = jnp.zeros((*rows, width), dtype)
    if sink_KG is None:
        return Sums(y, jnp.full((*rows, 1), jnp.finfo(scoring.reductions).min, dtype), jnp.zeros((*rows, 1), dtype))
    row_max = jnp.broadcast_to(sink_KG.astype(dtype)[..., None, None], (*rows, 1))
    return Sums(y, row_max, jnp.ones((*rows, 1), dtype))


def sum_dtype(scoring: Scoring) -> Any:
    """Returns the dtype of sums over tiles: at least float32, since there may be many tiles."""
    return jnp.promote_types(scoring.reductions, jnp.float32)


def _add_to_tile(x_BKSH: jax.Array, j: jax.Array, tile_BKSH: jax.Array) -> jax.Array:
    """Adds a tile to tile j of the keys."""
    size = tile_BKSH.shape[2]
    before = jax.lax.dynamic_slice_in_dim(x_BKSH, j * size, size, axis=2)
    return jax.lax.dynamic_update_slice_in_dim(x_BKSH, before + tile_BKSH, j * size, axis=2)


_attend.defvjp(_forward, _backward)
