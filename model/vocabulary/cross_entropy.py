"""The cross-entropy of next-token scores: of whole logits, and of a stream whose logits are made chunk by chunk.

`nll` makes no array of all tokens times the vocabulary, neither forward nor backward. Each device takes its own tokens
in chunks, with its own part of the vocabulary; a chunk's logits are made again in the backward pass, from the stream
and log Z. What devices have to add up they add up once, after the last chunk.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from model.layout import Axes, Layout, Split
from model.vocabulary.unembedding import Finish, Unembedding

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
    shape = (*targets_BT.shape, unembedding.w_DV.shape[1])
    splits = layout.splits(shape, ("batch", "vocab_sequence", "vocab"))
    rows, length, vocab = (size // split.ways for size, split in zip(shape, splits, strict=True))
    count = chunk_count(rows * length, vocab)
    if count == 1:
        return cross_entropy(unembedding.logits(stream_BTD, layout), targets_BT)
    plan = _Plan(layout, splits[:2], splits[2], count, unembedding.finish)
    return _nll(plan, stream_BTD, unembedding.w_DV, unembedding.bias_V, targets_BT)


def chunk_count(tokens: int, vocab_size: int) -> int:
    """In how many chunks: the fewest that `BLOCK` allows, or up to twice as many where those are of one size."""
    least = -(-tokens // max(1, BLOCK // vocab_size))
    return next((count for count in range(least, 2 * least) if tokens % count == 0), least)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How the logits (B, T, V) are made.

    Attributes:
      layout: of all arrays.
      tokens, vocab: how B and T, and how V are split over devices.
      count: the chunks of a device's tokens.
      finish: from products to logits.
    """

    layout: Layout
    tokens: tuple[Split, ...]
    vocab: Split
    count: int
    finish: Finish

    @property
    def axes(self) -> tuple[Axes, Axes, Axes, Axes]:
        """Those of stream, weight, bias and targets."""
        return (*self.tokens, None), (None, self.vocab), (self.vocab,), self.tokens

    def products(self, x_CD: jax.Array, w_DV: jax.Array) -> jax.Array:
        """What logits are made of, of a chunk."""
        return jnp.einsum("CD,DV->CV", x_CD, w_DV, preferred_element_type=jnp.dtype(self.finish.dtype))

    def is_target(self, target_C: jax.Array, scores_CV: jax.Array) -> jax.Array:
        """Where the target stands in this device's part of the vocabulary, if it does."""
        first = jax.lax.axis_index(self.vocab.mesh_axes) * scores_CV.shape[1] if self.vocab.mesh_axes else 0
        return jax.lax.broadcasted_iota(target_C.dtype, scores_CV.shape, 1) == target_C[:, None] - first

    def cut(self, x_BT: jax.Array) -> jax.Array:
        """A device's tokens in chunks, filled up with zeros: (B, T, ...) to (chunks, C, ...)."""
        x = x_BT.reshape(-1, *x_BT.shape[2:])
        missing = -len(x) % self.count
        x = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) if missing else x
        return x.reshape(self.count, -1, *x.shape[1:])

    def joined(self, x_nC: jax.Array, like_BT: jax.Array) -> jax.Array:
        """The other way round."""
        rows, length = like_BT.shape[:2]
        return x_nC.reshape(-1, *x_nC.shape[2:])[: rows * length].reshape(rows, length, *x_nC.shape[2:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _nll(
    plan: _Plan, stream_BTD: jax.Array, w_DV: jax.Array, bias_V: jax.Array | None, targets_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _forward(plan, stream_BTD, w_DV, bias_V, targets_BT)[0]


def _forward(
    plan: _Plan, stream_BTD: jax.Array, w_DV: jax.Array, bias_V: jax.Array | None, targets_BT: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    def on_device(
        x_BTD: jax.Array, w_DV: jax.Array, bias_V: jax.Array | None, targets_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        def of_chunk(_: None, inputs: tuple[jax.Array, jax.Array]) -> tuple[None, tuple[jax.Array, ...]]:
            x_CD, target_C = inputs
            scores_CV = plan.finish(plan.products(x_CD, w_DV), bias_V).astype(jnp.float32)
            highest_C = jnp.max(scores_CV, axis=-1)
            total_C = jnp.sum(jnp.exp(scores_CV - highest_C[:, None]), axis=-1)
            picked_C = jnp.sum(jnp.where(plan.is_target(target_C, scores_CV), scores_CV, 0.0), axis=-1)
            return None, (highest_C, total_C, picked_C)

        _, sums = jax.lax.scan(of_chunk, None, (plan.cut(x_BTD), plan.cut(targets_BT)))
        highest_BT, total_BT, picked_BT = (plan.joined(each, targets_BT) for each in sums)
        if names := plan.vocab.mesh_axes:
            own_BT, highest_BT = highest_BT, jax.lax.pmax(highest_BT, names)
            total_BT, picked_BT = _added((total_BT * jnp.exp(own_BT - highest_BT), picked_BT), names)
        log_z_BT = highest_BT + jnp.log(total_BT)
        return log_z_BT - picked_BT, log_z_BT

    compute = stream_BTD.dtype
    run = plan.layout.map(on_device, plan.axes, (plan.tokens, plan.tokens))
    nll_BT, log_z_BT = run(stream_BTD, w_DV.astype(compute), _narrow(bias_V, compute), targets_BT)
    return (nll_BT, log_z_BT), (stream_BTD, w_DV, bias_V, targets_BT, log_z_BT)


def _backward(plan: _Plan, residuals: tuple[Any, ...], towards: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
    stream_BTD, wide_DV, wide_V, targets_BT, log_z_BT = residuals
    over_tokens = tuple(name for split in plan.tokens for name in split.mesh_axes)
    (stored, _) = plan.layout.parameter_splits(wide_DV.shape, ("embed", "vocab"))
    scattered = tuple(name for name in stored.mesh_axes if name in over_tokens)

    def on_device(
        x_BTD: jax.Array, w_DV: jax.Array, bias_V: jax.Array | None, *of_tokens: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        # Each device has its own sums until the end.
        w_DV, bias_V = _varying((w_DV, bias_V), over_tokens)

        def of_chunk(sums: Any, inputs: tuple[jax.Array, ...]) -> tuple[Any, jax.Array]:
            x_CD, target_C, log_z_C, dnll_C, dlog_z_C = inputs
            logits_CV, pull = jax.vjp(plan.finish, plan.products(x_CD, w_DV), bias_V)
            scores_CV = logits_CV.astype(jnp.float32)
            dscores_CV = jnp.exp(scores_CV - log_z_C[:, None]) * (dnll_C + dlog_z_C)[:, None]
            dscores_CV -= jnp.where(plan.is_target(target_C, scores_CV), dnll_C[:, None], 0.0)
            dproducts_CV, dbias_V = pull(dscores_CV.astype(logits_CV.dtype))
            dproducts_CV = dproducts_CV.astype(x_CD.dtype)
            dw_DV = jnp.einsum("CD,CV->DV", x_CD, dproducts_CV, preferred_element_type=jnp.float32)
            return jax.tree.map(jnp.add, sums, (dw_DV, dbias_V)), jnp.einsum("CV,DV->CD", dproducts_CV, w_DV)

        start = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), (w_DV, bias_V))
        start = _varying(start, (*over_tokens, *plan.vocab.mesh_axes))
        sums, dx_nCD = jax.lax.scan(of_chunk, start, tuple(map(plan.cut, (x_BTD, *of_tokens))))
        dx_BTD = plan.joined(dx_nCD, x_BTD)
        dw_DV, dbias_V = jax.tree.map(lambda dw, w: dw.astype(w.dtype), sums, (wide_DV, wide_V))
        if scattered:
            dw_DV = jax.lax.psum_scatter(dw_DV, scattered, tiled=True)
        dw_DV = _added(dw_DV, tuple(name for name in over_tokens if name not in scattered))
        return _added(dx_BTD, plan.vocab.mesh_axes), dw_DV, _added(dbias_V, over_tokens)

    compute = stream_BTD.dtype
    of_stream, _, of_bias, of_targets = plan.axes
    out = of_stream, (Split(scattered), plan.vocab), of_bias
    run = plan.layout.map(on_device, (*plan.axes, *[of_targets] * 3), out)
    weights = (wide_DV.astype(compute), _narrow(wide_V, compute))
    grads = run(stream_BTD, *weights, targets_BT, log_z_BT, *towards)
    return *jax.lax.optimization_barrier(grads), None


_nll.defvjp(_forward, _backward)


def _narrow(bias_V: jax.Array | None, dtype: jnp.dtype) -> jax.Array | None:
    return None if bias_V is None else bias_V.astype(dtype)


def _added(tree: Any, names: tuple[str, ...]) -> Any:
    """The sums over the devices along these mesh axes."""
    return jax.lax.psum(tree, names) if names else tree


def _varying(tree: Any, names: tuple[str, ...]) -> Any:
    """The same arrays, of which each device along these mesh axes may have versions of its own."""
    return jax.lax.pcast(tree, names, to="varying") if names else tree
