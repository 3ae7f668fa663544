"""The request that a call of attention makes to a kernel, and the protocol of kernels."""

import dataclasses
import functools
from typing import ClassVar, Protocol

import jax

from model.kernels.paged_array import PageForm
from model.kernels.scoring import Bias, Scoring
from model.kernels.visibility import Visibility


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One call of attention on one device, without its arrays. The coordinates of tokens may be traced.

    On a mesh it is the call of each device, inside `shard_map`.

    Attributes:
      q, k, v: the shape and dtype of queries (B, T, N, H), keys (B, S, K, H) and values (B, S, K, Hv).
      visibility: which keys each query sees.
      scoring: how scores are computed from queries and keys.
      bias: a bias added to scores, or None.
      has_sinks: whether every head has a score that takes part in its softmax and has no value.
      dropout: the share of weights that is dropped; 0 outside training.
      platform: the platform that runs the kernel: "cpu", "gpu" or "tpu".
      compute_capability: of a GPU: (9, 0) for Hopper.
      pages: the pages in which keys lie; None for keys in arrays of their own.
    """

    use: ClassVar[str] = "attention"
    q: jax.ShapeDtypeStruct
    k: jax.ShapeDtypeStruct
    v: jax.ShapeDtypeStruct
    visibility: Visibility
    scoring: Scoring
    bias: Bias | None = None
    has_sinks: bool = False
    dropout: float = 0.0
    platform: str = "cpu"
    compute_capability: tuple[int, int] = (9, 0)
    pages: PageForm | None = None


class Kernel(Protocol):
    """One way to compute attention. A kernel does everything that a request asks for, or refuses the request."""

    @property
    def name(self) -> str:
        """The name of the kernel, for explanations and for choosing it."""

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms that it runs on; () for all of them."""

    def supports(self, request: Request) -> str | None:
        """Returns None if the kernel takes a request, else the reason why it does not."""

    def attend(
        self,
        request: Request,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        sink_N: jax.Array | None,
        dropout_keys: jax.Array | None,
    ) -> jax.Array:
        """Returns the weighted sum of values for every query and head, (B, T, N, Hv), in the dtype of the values.

        Args:
          request: a request that the kernel supports.
          q_BTNH, k_BSKH, v_BSKH: queries, keys and values.
          sink_N: the sinks, if `request.has_sinks`.
          dropout_keys: for `request.dropout`, a random key of each row and query head (model/kernels/xla/dropped.py);
            without keys, that is 0.
        """


@functools.cache
def compute_capability() -> tuple[int, int]:
    """Returns that of this machine's GPU. Without one it is 8.0, for programs that are only lowered here.

    Libraries ask the GPU for its features while they trace, and without one they do what older GPUs can do.
    """
    text = getattr(jax.devices()[0], "compute_capability", "8.0")
    major, _, minor = str(text).partition(".")
    return int(major), int(minor or 0)
