"""The loss of a stream and its gradient, without the logits of all tokens: each device processes its tokens in chunks.

A device computes the logits of a chunk over its own part of the vocabulary, and frees them before the next chunk. `nll`
keeps log Z of each token, and its derivative recomputes the logits; `total` computes the gradient together with the
logits, which saves one of four products. Devices add up their sums once, after the last chunk. A device sums gradients
in float32; between devices they have the dtype of the parameters.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.layout import Axes, AxisSharding, Layout
from model.vocabulary.unembedding import Finish


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the logits (B, T, V) are split and computed.

    Attributes:
      layout: the layout of all arrays.
      tokens, vocab: how B and T, and V, are split over devices.
      count: the number of chunks of a device's tokens.
      finish: the map from products to logits.
    """

    layout: Layout
    tokens: tuple[AxisSharding, ...]
    vocab: AxisSharding
    count: int
    finish: Finish

    @property
    def axes(self) -> tuple[Axes, Axes, Axes, Axes]:
        """The axes of stream, weight, bias and targets."""
        return (*self.tokens, None), (None, self.vocab), (self.vocab,), self.tokens

    def products(self, x_CD: jax.Array, w_DV: jax.Array) -> jax.Array:
        """Returns the products of a chunk, from which `finish` computes the logits."""
        return jnp.einsum("CD,DV->CV", x_CD, w_DV, preferred_element_type=jnp.dtype(self.finish.dtype))

    def is_target(self, target_C: jax.Array, scores_CV: jax.Array) -> jax.Array:
        """Returns a mask of the target in this device's vocabulary; False everywhere if it is elsewhere."""
        first = jax.lax.axis_index(self.vocab.mesh_axes) * scores_CV.shape[1] if self.vocab.mesh_axes else 0
        return jax.lax.broadcasted_iota(target_C.dtype, scores_CV.shape, 1) == target_C[:, None] - first

    def sums(self, scores_CV: jax.Array, target_C: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the highest score, the sum of exp(score - highest), the target's score, in this device's part."""
        highest_C = jnp.max(scores_CV, axis=-1)
        total_C = jnp.sum(jnp.exp(scores_CV - highest_C[:, None]), axis=-1)
        picked_C = jnp.sum(jnp.where(self.is_target(target_C, scores_CV), scores_CV, 0.0), axis=-1)
        return highest_C, total_C, picked_C

    def cut(self, x_BT: jax.Array, fill: float = 0) -> jax.Array:
        """Splits a device's tokens into chunks and pads the last one: (B, T, ...) to (chunks, C, ...)."""
        x = x_BT.reshape(-1, *x_BT.shape[2:])
        missing = -len(x) % self.count
        x = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1), constant_values=fill) if missing else x
        return x.reshape(self.count, -1, *x.shape[1:])

    def joined(self, x_nC: jax.Array, like_BT: jax.Array) -> jax.Array:
        """Inverts `cut`: (chunks, C, ...) to (B, T, ...)."""
        rows, length = like_BT.shape[:2]
        return x_nC.reshape(-1, *x_nC.shape[2:])[: rows * length].reshape(rows, length, *x_nC.shape[2:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def nll(
    plan: Plan, stream_BTD: jax.Array, w_DV: jax.Array, bias_V: jax.Array | None, targets_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns -log p(target) and log Z of each token, float32 (B, T); their derivative recomputes the logits.

    Args:
      plan: how the logits are split and computed.
      stream_BTD, w_DV, bias_V: the stream, weight and bias of the logits.
      targets_BT: the ids of the next tokens.
    """
    return _forward(plan, stream_BTD, w_DV, bias_V, targets_BT)[0]


def _forward(
    plan: Plan, stream_BTD: jax.Array, w_DV: jax.Array, bias_V: jax.Array | None, targets_BT: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    def on_device(
        x_BTD: jax.Array, w_DV: jax.Array, bias_V: jax.Array | None, targets_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        def of_chunk(_: None, inputs: tuple[jax.Array, jax.Array]) -> tuple[None, tuple[jax.Array, ...]]:
            x_CD, target_C = inputs
            scores_CV = plan.finish(plan.products(x_CD, w_DV), bias_V).astype(jnp.float32)
            return None, plan.sums(scores_CV, target_C)

        _, sums = jax.lax.scan(of_chunk, None, (plan.cut(x_BTD), plan.cut(targets_BT)))
        highest_BT, total_BT, picked_BT = (plan.joined(each, targets_BT) for each in sums)
        if names := plan.vocab.mesh_axes:
            own_BT, highest_BT = highest_BT, jax.lax.pmax(highest_BT, names)
            total_BT, picked_BT = jax.lax.psum((total_BT * jnp.exp(own_BT - highest_BT), picked_BT), names)
        log_z_BT = highest_BT + jnp.log(total_BT)
        return log_z_BT - picked_BT, log_z_BT

    compute = stream_BTD.dtype
    mapped = plan.layout.shard_map(on_device, plan.axes, (plan.tokens, plan.tokens))
    nll_BT, log_z_BT = mapped(stream_BTD, w_DV.astype(compute), _narrow(bias_V, compute), targets_BT)
    return (nll_BT, log_z_BT), (stream_BTD, w_DV, bias_V, targets_BT, log_z_BT)


def _backward(plan: Plan, residuals: tuple[Any, ...], towards: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
    *arrays, log_z_BT = residuals

    def given(_: Any, __: Any, *of_tokens: jax.Array) -> tuple[Towards, tuple[()]]:
        return Towards(*of_tokens), ()

    # Tokens that pad a chunk have scores too (the bias), but no log Z: an infinite log Z makes exp(..) 0.
    return *_differentiated(plan, given, 0, (jnp.inf, 0, 0), *arrays, log_z_BT, *towards), None


nll.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def total(
    plan: Plan,
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
    return weighted(*nll(plan, stream_BTD, w_DV, bias_V, targets_BT), weights_BT, z_loss)


def _total_forward(
    plan: Plan,
    z_loss: float,
    stream_BTD: jax.Array,
    w_DV: jax.Array,
    bias_V: jax.Array | None,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    def found(scores_CV: jax.Array, target_C: jax.Array, weight_C: jax.Array) -> tuple[Towards, tuple[jax.Array, ...]]:
        highest_C, total_C, picked_C = plan.sums(scores_CV, target_C)
        log_z_C = highest_C + jnp.log(total_C)
        return Towards(log_z_C, weight_C, 2 * z_loss * weight_C * log_z_C), (log_z_C - picked_C, log_z_C)

    arrays = stream_BTD, w_DV, bias_V, targets_BT, weights_BT
    *grads, nll_BT, log_z_BT = _differentiated(plan, found, 2, (0,), *arrays)
    of_weight_BT = nll_BT + z_loss * jnp.square(log_z_BT)
    return weighted(nll_BT, log_z_BT, weights_BT, z_loss), (grads, of_weight_BT)


def _total_backward(
    plan: Plan, z_loss: float, residuals: tuple[Any, ...], towards: tuple[jax.Array, jax.Array]
) -> tuple[Any, ...]:
    grads, of_weight_BT = residuals

    def scaled(g: jax.Array) -> jax.Array:
        """Scales in float32: a factor rounded to the gradient's dtype would be wrong by up to 2^-9 of it."""
        return (g.astype(jnp.float32) * towards[1]).astype(g.dtype)

    *of_arrays, of_weight_BT = jax.tree.map(scaled, (*grads, of_weight_BT))
    return *of_arrays, None, of_weight_BT


total.defvjp(_total_forward, _total_backward)


def weighted(
    nll_BT: jax.Array, log_z_BT: jax.Array, weights_BT: jax.Array, z_loss: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the two sums of `total`, from the losses of tokens."""
    summed = jnp.sum(nll_BT * weights_BT)
    if z_loss == 0:
        return summed, summed
    return summed, summed + z_loss * jnp.sum(jnp.square(log_z_BT) * weights_BT)


class Towards(NamedTuple):
    """For the tokens of a chunk: log Z, and the derivatives of the result by -log p(target) and by log Z."""

    log_z_C: jax.Array
    dnll_C: jax.Array
    dlog_z_C: jax.Array


def _differentiated(
    plan: Plan,
    towards: Callable[..., tuple[Towards, tuple[jax.Array, ...]]],
    kept: int,
    fills: tuple[float, ...],
    stream_BTD: jax.Array,
    wide_DV: jax.Array,
    wide_V: jax.Array | None,
    targets_BT: jax.Array,
    *of_tokens_BT: jax.Array,
) -> tuple[Any, ...]:
    """Returns the gradients of stream, weight and bias, and the arrays of each token that `towards` keeps.

    The gradient of the weight is sharded like the weight: scattered, not copied to all devices.

    Args:
      plan: how the logits are split and computed.
      towards: maps the scores of a chunk, its targets, and its part of each `of_tokens_BT` to a `Towards` and a tuple
        of arrays to keep.
      kept: the number of arrays to keep.
      fills: for each `of_tokens_BT`, its value for the tokens that pad the last chunk.
      stream_BTD, wide_DV, wide_V, targets_BT: as for `nll`.
      of_tokens_BT: the arrays that `towards` needs.
    """
    over_tokens = tuple(name for sharding in plan.tokens for name in sharding.mesh_axes)
    (stored, _) = plan.layout.parameter_axis_shardings(wide_DV.shape, ("embed", "vocab"))
    scattered = tuple(name for name in stored.mesh_axes if name in over_tokens)

    def on_device(
        x_BTD: jax.Array, w_DV: jax.Array, bias_V: jax.Array | None, *of_tokens: jax.Array
    ) -> tuple[Any, ...]:
        # Each device has its own sums until the end.
        w_DV, bias_V = jax.lax.pcast((w_DV, bias_V), over_tokens, to="varying")

        def of_chunk(sums: Any, inputs: tuple[jax.Array, ...]) -> tuple[Any, tuple[Any, ...]]:
            x_CD, target_C, *rest = inputs
            logits_CV, pull = jax.vjp(plan.finish, plan.products(x_CD, w_DV), bias_V)
            scores_CV = logits_CV.astype(jnp.float32)
            (log_z_C, dnll_C, dlog_z_C), more = towards(scores_CV, target_C, *rest)
            dscores_CV = jnp.exp(scores_CV - log_z_C[:, None]) * (dnll_C + dlog_z_C)[:, None]
            dscores_CV -= jnp.where(plan.is_target(target_C, scores_CV), dnll_C[:, None], 0.0)
            dproducts_CV, dbias_V = pull(dscores_CV.astype(logits_CV.dtype))
            dproducts_CV = dproducts_CV.astype(x_CD.dtype)
            dw_DV = jnp.einsum("CD,CV->DV", x_CD, dproducts_CV, preferred_element_type=jnp.float32)
            sums = jax.tree.map(jnp.add, sums, (dw_DV, dbias_V))
            return sums, (jnp.einsum("CV,DV->CD", dproducts_CV, w_DV), *more)

        start = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), (w_DV, bias_V))
        start = jax.lax.pcast(start, (*over_tokens, *plan.vocab.mesh_axes), to="varying")
        cut = map(plan.cut, (x_BTD, *of_tokens), (0, 0, *fills))
        sums, found = jax.lax.scan(of_chunk, start, tuple(cut))
        dx_BTD, *more_BT = (plan.joined(each, x_BTD) for each in found)
        dw_DV, dbias_V = jax.tree.map(lambda dw, w: dw.astype(w.dtype), sums, (wide_DV, wide_V))
        if scattered:
            dw_DV = jax.lax.psum_scatter(dw_DV, scattered, tiled=True)
        dw_DV = jax.lax.psum(dw_DV, tuple(name for name in over_tokens if name not in scattered))
        return jax.lax.psum(dx_BTD, plan.vocab.mesh_axes), dw_DV, jax.lax.psum(dbias_V, over_tokens), *more_BT

    compute = stream_BTD.dtype
    of_stream, _, of_bias, tokens = plan.axes
    out = of_stream, (AxisSharding(scattered), plan.vocab), of_bias, *[tokens] * kept
    mapped = plan.layout.shard_map(on_device, (*plan.axes, *[tokens] * len(of_tokens_BT)), out)
    weights = (wide_DV.astype(compute), _narrow(wide_V, compute))
    found = mapped(stream_BTD, *weights, targets_BT, *of_tokens_BT)
    # Without the barrier the compiler may delay the reduction of the weight's gradient to the end of the step, and keep
    # a whole copy of it until then.
    grads: tuple[Any, ...] = jax.lax.optimization_barrier(found)
    return grads


def _narrow(bias_V: jax.Array | None, dtype: jnp.dtype) -> jax.Array | None:
    return None if bias_V is None else bias_V.astype(dtype)
