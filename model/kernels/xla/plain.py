"""Attention as in the equation, with whole arrays and JAX's own derivative; its weights can be inspected."""

import dataclasses

import jax
import jax.numpy as jnp

from model.kernels.request import Request
from model.kernels.scoring import Bias, Scoring
from model.kernels.visibility import Visibility
from model.kernels.xla.dropped import drop_weights


@dataclasses.dataclass(frozen=True)
class Plain:
    """See the module docstring; this kernel takes every request."""

    name: str = "plain"
    platforms: tuple[str, ...] = ()

    def supports(self, request: Request) -> str | None:
        """Returns None: it can do every request, though it holds the scores of all queries and keys."""
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
        weights_BKGTS = _weights(q_BTNH, k_BSKH, request.visibility, request.scoring, request.bias, sink_N)
        weights_BKGTS = drop_weights(weights_BKGTS, request.dropout, dropout_keys, request.visibility)
        weights_BKGTS = weights_BKGTS.astype(v_BSKH.dtype)
        y_BTKGH = jnp.einsum("BKGTS,BSKH->BTKGH", weights_BKGTS, v_BSKH)
        return y_BTKGH.reshape(*q_BTNH.shape[:3], v_BSKH.shape[-1])


def attention_weights(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    visibility: Visibility,
    scoring: Scoring,
    *,
    bias: Bias | None = None,
    sink_N: jax.Array | None = None,
) -> jax.Array:
    """Returns every kernel's weights (B, N, T, S) of the values before dropout, in the dtype of the queries."""
    weights_BKGTS = _weights(q_BTNH, k_BSKH, visibility, scoring, bias, sink_N)
    b, _, _, t, s = weights_BKGTS.shape
    return weights_BKGTS.reshape(b, -1, t, s).astype(q_BTNH.dtype)


def _weights(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    visibility: Visibility,
    scoring: Scoring,
    bias: Bias | None,
    sink_N: jax.Array | None,
) -> jax.Array:
    q_BKGTH = scoring.scale_and_group(q_BTNH, k_BSKH.shape[2])
    scores_BKGTS = scoring.scores(scoring.products(q_BKGTH, k_BSKH.swapaxes(1, 2)), visibility, bias)
    if sink_N is None:
        return jax.nn.softmax(scores_BKGTS, axis=-1)
    sink_KG11 = sink_N.astype(scores_BKGTS.dtype).reshape(*scores_BKGTS.shape[1:3], 1, 1)
    sink_BKGT1 = jnp.broadcast_to(sink_KG11, (*scores_BKGTS.shape[:-1], 1))
    return jax.nn.softmax(jnp.concatenate([scores_BKGTS, sink_BKGT1], axis=-1), axis=-1)[..., :-1]
