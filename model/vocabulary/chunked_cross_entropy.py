"""The loss of a stream and its gradient, without the logits of all tokens: each device processes its tokens in chunks.

A device computes the logits of a chunk over its own part of the vocabulary, and frees them before the next chunk. `nll`
keeps log Z of each token, and its derivative recomputes the logits; `total_nll` computes the gradient together with the
logits, which saves one of four products. Devices add up their sums once, after the last chunk. A device sums gradients
in float32; between devices they have the dtype of the parameters.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.layout import Axes, AxisSharding, Layout, vary
from model.vocabulary.unembedding import LogitTransform


@dataclasses.dataclass(frozen=True)
class ChunkPlan:
    """How the logits (B, T, V) are split and computed.

    Attributes:
      layout: the layout of all arrays.
      tokens, vocab: how B and T, and V, are split over devices.
      num_chunks: the number of chunks of a device's tokens.
      transform: the map from products to logits.
    """

    layout: Layout
    tokens: tuple[AxisSharding, ...]
    vocab: AxisSharding
    num_chunks: int
    transform: LogitTransform

    @property
    def axes(self) -> tuple[Axes, Axes, Axes, Axes]:
        """The axes of stream, weight, bias and targets."""
        return (*self.tokens, None), (None, self.vocab), (self.vocab,), self.tokens

    def products(self, x_CD: jax.Array, w_DV: jax.Array) -> jax.Array:
        """Returns the products of a chunk, from which `transform` computes the logits."""
        return jnp.einsum("CD,DV->CV", x_CD, w_DV, preferred_element_type=jnp.dtype(self.transform.dtype))

    def local_target(self, target_C: jax.Array, scores_CV: jax.Array) -> jax.Array:
        """Returns the target's number in this device's vocabulary, (C, 1); it is out of range if it is elsewhere."""
        first = jax.lax.axis_index(self.vocab.mesh_axes) * scores_CV.shape[1] if self.vocab.mesh_axes else 0
        return target_C[:, None] - first

    def is_target(self, target_C: jax.Array, scores_CV: jax.Array) -> jax.Array:
        """Returns a mask of the target in this device's vocabulary; False everywhere if it is elsewhere."""
        ids_CV = jax.lax.broadcasted_iota(target_C.dtype, scores_CV.shape, 1)
        return ids_CV == self.local_target(target_C, scores_CV)

    def partial_softmax(self, scores_CV: jax.Array, target_C: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the highest score, the sum of exp(score - highest), the target's score, in this device's part."""
        highest_C = jnp.max(scores_CV, axis=-1)
        total_C = jnp.sum(jnp.exp(scores_CV - highest_C[:, None]), axis=-1)
        target_score_C = jnp.sum(jnp.where(self.is_target(target_C, scores_CV), scores_CV, 0.0), axis=-1)
        return highest_C, total_C, target_score_C

    def split_chunks(self, x_BT: jax.Array, fill: float = 0) -> jax.Array:
        """Splits a device's tokens into chunks and pads the last one: (B, T, ...) to (chunks, C, ...)."""
        x = x_BT.reshape(-1, *x_BT.shape[2:])
        padding = -len(x) % self.num_chunks
        x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1), constant_values=fill) if padding else x
        return x.reshape(self.num_chunks, -1, *x.shape[1:])

    def join_chunks(self, x_nC: jax.Array, like_BT: jax.Array) -> jax.Array:
        """Inverts `split_chunks`: (chunks, C, ...) to (B, T, ...)."""
        rows, length = like_BT.shape[:2]
        return x_nC.reshape(-1, *x_nC.shape[2:])[: rows * length].reshape(rows, length, *x_nC.shape[2:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def nll(
    plan: ChunkPlan, stream_BTD: jax.Array, w_DV: jax.Array, bias_V: jax.Array | None, targets_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns -log p(target) and log Z of each token, float32 (B, T); their derivative recomputes the logits.

    Args:
      plan: how the logits are split and computed.
      stream_BTD, w_DV, bias_V: the stream, weight and bias of the logits.
      targets_BT: the ids of the next tokens.
    """
    return _forward(plan, stream_BTD, w_DV, bias_V, targets_BT)[0]


def _forward(
    plan: ChunkPlan, stream_BTD: jax.Array, w_DV: jax.Array, bias_V: jax.Array | None, targets_BT: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    def on_device(
        x_BTD: jax.Array, w_DV: jax.Array, bias_V: jax.Array | None, targets_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        def chunk_step(_: None, inputs: tuple[jax.Array, jax.Array]) -> tuple[None, tuple[jax.Array, ...]]:
            x_CD, target_C = inputs
            scores_CV = plan.transform(plan.products(x_CD, w_DV), bias_V).astype(jnp.float32)
            return None, plan.partial_softmax(scores_CV, target_C)

        _, sums = jax.lax.scan(chunk_step, None, (plan.split_chunks(x_BTD), plan.split_chunks(targets_BT)))
        highest_BT, total_BT, target_score_BT = (plan.join_chunks(each, targets_BT) for each in sums)
        if names := plan.vocab.mesh_axes:
            local_highest_BT, highest_BT = highest_BT, jax.lax.pmax(highest_BT, names)
            total_BT, target_score_BT = jax.lax.psum(
                (total_BT * jnp.exp(local_highest_BT - highest_BT), target_score_BT), names
            )
        log_z_BT = highest_BT + jnp.log(total_BT)
        return log_z_BT - target_score_BT, log_z_BT

    compute = stream_BTD.dtype
    shard_mapped = plan.layout.shard_map(on_device, plan.axes, (plan.tokens, plan.tokens))
    nll_BT, log_z_BT = shard_mapped(stream_BTD, w_DV.astype(compute), _cast_bias(bias_V, compute), targets_BT)
    return (nll_BT, log_z_BT), (stream_BTD, w_DV, bias_V, targets_BT, log_z_BT)


def _backward(plan: ChunkPlan, residuals: tuple[Any, ...], cotangents: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
    *arrays, log_z_BT = residuals

    def token_derivatives(_: Any, __: Any, *of_tokens: jax.Array) -> tuple[TokenDerivatives, tuple[()]]:
        return TokenDerivatives(*of_tokens), ()

    # Tokens that pad a chunk have scores too (the bias), but no log Z: an infinite log Z makes exp(..) 0.
    return *_loss_gradients(plan, token_derivatives, 0, (jnp.inf, 0, 0), *arrays, log_z_BT, *cotangents), None


nll.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def total_nll(
    plan: ChunkPlan,
    z_loss: float,
    stream_BTD: jax.Array,
    w_DV: jax.Array,
    bias_V: jax.Array | None,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns the weighted sum of -log p(target), and that sum plus the z-loss; only the latter may be differentiated.

    The gradient is computed chunk by chunk with the loss, from the same logits; the backward pass then multiplies it by
    a factor. The vocabulary must not be split: devices would have to add up log Z in every chunk.
    """
    return weighted_sums(*nll(plan, stream_BTD, w_DV, bias_V, targets_BT), weights_BT, z_loss)


def _total_forward(
    plan: ChunkPlan,
    z_loss: float,
    stream_BTD: jax.Array,
    w_DV: jax.Array,
    bias_V: jax.Array | None,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    def token_derivatives(
        scores_CV: jax.Array, target_C: jax.Array, weight_C: jax.Array
    ) -> tuple[TokenDerivatives, tuple[jax.Array, ...]]:
        highest_C, total_C, target_score_C = plan.partial_softmax(scores_CV, target_C)
        log_z_C = highest_C + jnp.log(total_C)
        return TokenDerivatives(log_z_C, weight_C, 2 * z_loss * weight_C * log_z_C), (log_z_C - target_score_C, log_z_C)

    arrays = stream_BTD, w_DV, bias_V, targets_BT, weights_BT
    *grads, nll_BT, log_z_BT = _loss_gradients(plan, token_derivatives, 2, (0,), *arrays)
    dweights_BT = nll_BT + z_loss * jnp.square(log_z_BT)
    return weighted_sums(nll_BT, log_z_BT, weights_BT, z_loss), (grads, dweights_BT)


def _total_backward(
    plan: ChunkPlan, z_loss: float, residuals: tuple[Any, ...], cotangents: tuple[jax.Array, jax.Array]
) -> tuple[Any, ...]:
    grads, dweights_BT = residuals

    def scale(g: jax.Array) -> jax.Array:
        """Scales in float32: a factor rounded to the gradient's dtype would be wrong by up to 2^-9 of it."""
        return (g.astype(jnp.float32) * cotangents[1]).astype(g.dtype)

    *array_grads, dweights_BT = jax.tree.map(scale, (*grads, dweights_BT))
    return *array_grads, None, dweights_BT


total_nll.defvjp(_total_forward, _total_backward)


def weighted_sums(
    nll_BT: jax.Array, log_z_BT: jax.Array, weights_BT: jax.Array, z_loss: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the two sums of `total_nll`, from the losses of tokens."""
    total = jnp.sum(nll_BT * weights_BT)
    if z_loss == 0:
        return total, total
    return total, total + z_loss * jnp.sum(jnp.square(log_z_BT) * weights_BT)


class TokenDerivatives(NamedTuple):
    """For the tokens of a chunk: log Z, and the derivatives of the result by -log p(target) and by log Z."""

    log_z_C: jax.Array
    dnll_C: jax.Array
    dlog_z_C: jax.Array


def _loss_gradients(
    plan: ChunkPlan,
    token_derivatives: Callable[..., tuple[TokenDerivatives, tuple[jax.Array, ...]]],
    num_kept: int,
    fills: tuple[float, ...],
    stream_BTD: jax.Array,
    wide_w_DV: jax.Array,
    wide_bias_V: jax.Array | None,
    targets_BT: jax.Array,
    *token_arrays_BT: jax.Array,
) -> tuple[Any, ...]:
    """Returns the gradients of stream, weight and bias, and the arrays of each token that `token_derivatives` keeps.

    The gradient of the weight is sharded like the weight: scattered, not copied to all devices.

    Args:
      plan: how the logits are split and computed.
      token_derivatives: maps the scores of a chunk, its targets, and its part of each `token_arrays_BT` to a
        `TokenDerivatives` and a tuple of arrays to keep.
      num_kept: the number of arrays to keep.
      fills: for each `token_arrays_BT`, its value for the tokens that pad the last chunk.
      stream_BTD, wide_w_DV, wide_bias_V, targets_BT: as for `nll`.
      token_arrays_BT: the arrays that `token_derivatives` needs.
    """
    token_mesh_axes = tuple(name for sharding in plan.tokens for name in sharding.mesh_axes)
    (embed_sharding, _) = plan.layout.parameter_axis_shardings(wide_w_DV.shape, ("embed", "vocab"))
    scattered = tuple(name for name in embed_sharding.mesh_axes if name in token_mesh_axes)

    def on_device(
        x_BTD: jax.Array, w_DV: jax.Array, bias_V: jax.Array | None, *of_tokens: jax.Array
    ) -> tuple[Any, ...]:
        # Each device has its own sums until the end.
        w_DV, bias_V = vary((w_DV, bias_V), token_mesh_axes)

        def chunk_step(sums: Any, inputs: tuple[jax.Array, ...]) -> tuple[Any, tuple[Any, ...]]:
            x_CD, target_C, *rest = inputs
            logits_CV, pull = jax.vjp(plan.transform, plan.products(x_CD, w_DV), bias_V)
            scores_CV = logits_CV.astype(jnp.float32)
            (log_z_C, dnll_C, dlog_z_C), kept = token_derivatives(scores_CV, target_C, *rest)
            dscores_CV = jnp.exp(scores_CV - log_z_C[:, None]) * (dnll_C + dlog_z_C)[:, None]
            dscores_CV -= jnp.where(plan.is_target(target_C, scores_CV), dnll_C[:, None], 0.0)
            dproducts_CV, dbias_V = pull(dscores_CV.astype(logits_CV.dtype))
            dproducts_CV = dproducts_CV.astype(x_CD.dtype)
            dw_DV = jnp.einsum("CD,CV->DV", x_CD, dproducts_CV, preferred_element_type=jnp.float32)
            sums = jax.tree.map(jnp.add, sums, (dw_DV, dbias_V))
            return sums, (jnp.einsum("CV,DV->CD", dproducts_CV, w_DV), *kept)

        start = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), (w_DV, bias_V))
        start = vary(start, (*token_mesh_axes, *plan.vocab.mesh_axes))
        chunks = map(plan.split_chunks, (x_BTD, *of_tokens), (0, 0, *fills))
        sums, outputs = jax.lax.scan(chunk_step, start, tuple(chunks))
        dx_BTD, *kept_BT = (plan.join_chunks(each, x_BTD) for each in outputs)
        dw_DV, dbias_V = jax.tree.map(lambda dw, w: dw.astype(w.dtype), sums, (wide_w_DV, wide_bias_V))
        if scattered:
            dw_DV = jax.lax.psum_scatter(dw_DV, scattered, tiled=True)
        dw_DV = jax.lax.psum(dw_DV, tuple(name for name in token_mesh_axes if name not in scattered))
        return jax.lax.psum(dx_BTD, plan.vocab.mesh_axes), dw_DV, jax.lax.psum(dbias_V, token_mesh_axes), *kept_BT

    compute = stream_BTD.dtype
    stream_axes, _, bias_axes, token_axes = plan.axes
    out_axes = stream_axes, (AxisSharding(scattered), plan.vocab), bias_axes, *[token_axes] * num_kept
    shard_mapped = plan.layout.shard_map(on_device, (*plan.axes, *[token_axes] * len(token_arrays_BT)), out_axes)
    weights = (wide_w_DV.astype(compute), _cast_bias(wide_bias_V, compute))
    outputs = shard_mapped(stream_BTD, *weights, targets_BT, *token_arrays_BT)
    # Without the barrier the compiler may delay the reduction of the weight's gradient to the end of the step, and keep
    # a whole copy of it until then.
    grads: tuple[Any, ...] = jax.lax.optimization_barrier(outputs)
    return grads


def _cast_bias(bias_V: jax.Array | None, dtype: jnp.dtype) -> jax.Array | None:
    return None if bias_V is None else bias_V.astype(dtype)
