"""Attention on NVIDIA GPUs by the Pallas kernel of JAX that Triton compiles. It compares documents; cuDNN does not.

Dao 2023, "FlashAttention-2". Slower than cuDNN and than tokamax: in the timings that tokamax publishes for an H100
(bfloat16, causal, head width 128, 4,096 tokens), a Triton kernel has 344 TFLOP/s, cuDNN 595, and XLA at most 74.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from model.kernels import refusals
from model.kernels.request import Request
from model.kernels.visibility import Visibility

# The numbers of queries and keys of a block in the forward pass of the library's own settings, which are taken as they
# are; a multiprocessor holds the blocks of wider heads only if they are smaller.
BLOCK, MAX_HEAD_DIM = 128, 128


@dataclasses.dataclass(frozen=True)
class Triton:
    """See the module docstring.

    Attributes:
      interpret: runs the kernel as plain operations, on any platform: slow, for tests.
      name: the name of the kernel.
    """

    interpret: bool = False
    name: str = "triton"

    @property
    def platforms(self) -> tuple[str, ...]:
        """See `Kernel`."""
        return () if self.interpret else ("gpu",)

    def supports(self, request: Request) -> str | None:
        """Returns None if the kernel takes a request, else the reason why it does not."""
        return refusals.first(self._refusals(request))

    def _refusals(self, request: Request) -> Iterator[str]:
        visibility, (t, head_dim) = request.visibility, request.q.shape[1::2]
        yield from refusals.of_platform(request, self.platforms)
        yield from refusals.of_every_library(request)
        yield from refusals.of_dtypes(
            request, ("bfloat16", "float16", "float32") if self.interpret else ("bfloat16", "float16")
        )
        if request.compute_capability < (8, 0):
            yield "it needs a GPU of compute capability 8.0 or more"
        if request.bias is not None:
            yield "it adds no bias to scores"
        yield from refusals.of_scores_and_widths(request)
        if head_dim not in (32, 64, MAX_HEAD_DIM):
            yield f"its head widths are 32, 64 and {MAX_HEAD_DIM}, not {head_dim}"
        if t % BLOCK:
            yield f"{t:,} queries are no multiple of {BLOCK}"
        yield from refusals.of_own_keys(request)
        for pattern in visibility.patterns:
            yield f"it has no pattern such as {pattern}"

    def attend(
        self,
        request: Request,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        sink_N: jax.Array | None,
        dropout_keys: jax.Array | None,
    ) -> jax.Array:
        """See `Kernel`. Keys and values are repeated for each query head of their group."""
        from jax.experimental.pallas.ops.gpu.attention import mha

        groups = q_BTNH.shape[2] // k_BSKH.shape[2]
        k_BSNH, v_BSNH = (x if groups == 1 else jnp.repeat(x, groups, axis=2) for x in (k_BSKH, v_BSKH))
        y_BTNH: jax.Array = mha(
            q_BTNH,
            k_BSNH,
            v_BSNH,
            _documents(request.visibility, len(q_BTNH)),
            sm_scale=request.scoring.scale,
            causal=request.visibility.is_causal,
            interpret=self.interpret,
        )
        return y_BTNH


def _documents(visibility: Visibility, batch: int) -> jax.Array | None:
    ids = visibility.queries.segment_ids
    if ids is None or not visibility.has_documents:
        return None
    return jnp.broadcast_to(ids, (batch, ids.shape[1])).astype(jnp.int32)
