"""Attention on NVIDIA GPUs by cuDNN's fused kernel, through `jax.nn.dot_product_attention`.

The public interface of JAX has no documents: it would let tokens of a packed row see other documents, so that such a
request is refused. A mask or a bias would be an array of T x S, and neither is handed over.
"""

import dataclasses
from collections.abc import Iterator

import jax

from model.attention.patterns import SlidingWindow
from model.kernels import refusals
from model.kernels.request import Request


@dataclasses.dataclass(frozen=True)
class CuDNN:
    """See the module docstring; Dao 2023, "FlashAttention-2", computes the same sums."""

    name: str = "cudnn"
    platforms: tuple[str, ...] = ("gpu",)

    def supports(self, request: Request) -> str | None:
        """Returns None if the kernel takes a request, else the reason why it does not."""
        return refusals.first(_refusals(request))

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
        visibility = request.visibility
        reach = visibility.reach if visibility.patterns else None
        return jax.nn.dot_product_attention(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            scale=request.scoring.scale,
            is_causal=visibility.is_causal,
            local_window_size=None if reach is None else (reach - 1, 0),
            implementation="cudnn",
        )


def _refusals(request: Request) -> Iterator[str]:
    visibility, head_dim = request.visibility, request.q.shape[-1]
    yield from refusals.of_platform(request, ("gpu",))
    yield from refusals.of_every_library(request)
    yield from refusals.of_dtypes(request, ("bfloat16", "float16"))
    if visibility.has_documents:
        yield "its public interface has no packed documents: tokens would see those of other documents"
    if request.bias is not None:
        yield "it would take a bias as an array of all queries and keys"
    yield from refusals.of_scores_and_widths(request)
    if head_dim % 8 or head_dim > max_head_dim(request.compute_capability):
        yield (
            f"a head has at most {max_head_dim(request.compute_capability)} numbers, a multiple of 8, and this one has "
            f"{head_dim}"
        )
    if visibility.is_causal:
        yield from refusals.of_own_keys(request)
    for pattern in visibility.patterns:
        if not isinstance(pattern, SlidingWindow) or pattern.first:
            yield f"it has windows, and not {pattern}"
        elif not visibility.is_causal:
            yield "its windows are causal"
        elif not visibility.distances_are_static:
            yield f"{pattern} is about positions that only arrays know"


def max_head_dim(compute_capability: tuple[int, int]) -> int:
    """Returns the widest head: 256 from Hopper (9.0) on, 128 before."""
    return 256 if compute_capability >= (9, 0) else 128
