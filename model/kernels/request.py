"""What a call of attention asks of a kernel, and what a kernel is."""

import dataclasses
from typing import Protocol

import jax

from model.attention.scoring import Bias, Scoring
from model.attention.visibility import Visibility


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One call of attention, but for its arrays.

    Attributes:
      q, k, v: the shape and dtype of queries (B, T, N, H), keys (B, S, K, H) and values (B, S, K, Hv).
      visibility: which keys each query sees.
      scoring: how scores are made of queries and keys.
      bias: what is added to scores, or None.
      sinks: whether every head has a score that takes part in its softmax and has no value.
      dropout: the share of weights dropped; 0 outside training.
      query_ways: how many parts the queries of a row are split into, on as many devices. A kernel that cuts them into
        others sends them from device to device.
      platform: where it runs: "cpu", "gpu" or "tpu".
    """

    q: jax.ShapeDtypeStruct
    k: jax.ShapeDtypeStruct
    v: jax.ShapeDtypeStruct
    visibility: Visibility
    scoring: Scoring
    bias: Bias | None = None
    sinks: bool = False
    dropout: float = 0.0
    query_ways: int = 1
    platform: str = "cpu"


class Kernel(Protocol):
    """One way to compute attention. Everything that a request asks is done, or the request is refused."""

    @property
    def name(self) -> str:
        """How the kernel is called in explanations and when it is asked for."""

    def supports(self, request: Request) -> str | None:
        """None if the kernel takes a request, else the reason why it does not."""

    def attend(
        self,
        request: Request,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        sink_N: jax.Array | None,
        dropout_key: jax.Array | None,
    ) -> jax.Array:
        """The sum of values for every query and head, (B, T, N, Hv), in the dtype of the values.

        Args:
          request: one that the kernel takes.
          q_BTNH, k_BSKH, v_BSKH: queries, keys and values.
          sink_N: the scores of `request.sinks`.
          dropout_key: the key of `request.dropout`, which is 0 without one.
        """
