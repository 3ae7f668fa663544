"""Attention to pages on NVIDIA GPUs by the Pallas kernel "paged attention" of JAX, which Triton compiles.

Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention", section 4.1, for
one query a row: a program reads a part of the keys of a row and head, so that few long rows fill the device too, and
the parts are added as in Dao 2023, "FlashAttention-2". The parts follow from the length of the table alone, so the sums
of a row do not depend on its neighbours.

The kernel expects pools (K, P, page size, H), and ours are (P, K, page size, H). It is given a pool of one head whose
pages are those of all heads, and each head of a row as a row of its own (`PagedArray.by_head`): the same programs, and
no copy. It multiplies the values that no query sees by 0. So entries of the table past the last page of a row are
turned to that page, and the cache has cleared the rest of it. Parts of prompts, with several queries a row, go to the
kernel for all platforms: JAX has no such kernel for GPUs.

JAX 0.11 calls its Triton kernels deprecated, and names none for pages in their place. The kernel was compared with the
plain form as plain operations, and lowered; no GPU has run it yet (tests/benchmarks/kernel_matrix.py does, on one).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from model.kernels import refusals
from model.kernels.paged_array import PagedArray
from model.kernels.request import Request

MODULE = "jax.experimental.pallas.ops.gpu.paged_attention"
BLOCK = 128  # keys
MAX_PARTS = 16  # into which the keys of a row are cut: the library's own setting
NARROWEST, WIDEST = 16, 256  # head widths; products have at least 16 numbers, and a block of wider ones does not fit


@dataclasses.dataclass(frozen=True)
class GPUPages:
    """See the module docstring.

    Attributes:
      interpret: runs the kernel as plain operations, on any platform: slow, for tests.
      keys: the keys that a program reads at once, a power of 2.
      name: the name of the kernel.
    """

    interpret: bool = False
    keys: int = BLOCK
    name: str = "gpu_pages"
    needs_cleared_pages: ClassVar[bool] = True

    @property
    def platforms(self) -> tuple[str, ...]:
        """See `Kernel`."""
        return () if self.interpret else ("gpu",)

    def supports(self, request: Request) -> str | None:
        """Returns None if the kernel takes a request, else the reason why it does not."""
        return refusals.first(self._refusals(request))

    def _refusals(self, request: Request) -> Iterator[str]:
        width = request.q.shape[-1]
        yield from refusals.of_platform(request, self.platforms)
        yield from refusals.of_module(MODULE)
        yield from refusals.of_pages(request)
        if request.pages is None:
            return
        if not self.interpret:
            yield from refusals.of_dtypes(request, ("bfloat16", "float16"))
            if request.compute_capability < (8, 0):
                yield "it needs a GPU of compute capability 8.0 or more"
            if not _is_power_of_two(width) or not NARROWEST <= width <= WIDEST:
                yield f"its head widths are the powers of 2 from {NARROWEST} to {WIDEST}, not {width}"
        if not _is_power_of_two(request.pages.size) or request.pages.size > self.keys:
            yield f"its pages have a power of 2 of tokens, at most {self.keys}, not {request.pages.size}"

    def attend(
        self, request: Request, q_BTNH: jax.Array, k: Any, v: Any, sink_N: jax.Array | None, dropout_keys: Any
    ) -> jax.Array:
        """See `Kernel`; keys and values are `PagedArray`s."""
        from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention

        assert isinstance(k, PagedArray), "keys in pages"
        assert isinstance(v, PagedArray), "values in pages"
        (batch, _, n, width), heads = q_BTNH.shape, k.shape[2]
        in_block = self.keys // k.page_size
        parts = min(MAX_PARTS, -(-k.table_BJ.shape[1] // in_block))
        length_B, k = k.seen(request.visibility.queries.indices(), in_block * parts)
        (k_pages, table_BKJ), (v_pages, _) = k.by_head(), v.by_head()
        q_BKGH = request.scoring.scale_and_group(q_BTNH, heads)[:, :, :, 0]
        scales = (None if x.scales is None else x.scales.reshape(1, -1, x.page_size) for x in (k, v))
        y: jax.Array = paged_attention(
            q_BKGH.reshape(batch * heads, n // heads, width),
            k_pages,
            v_pages,
            table_BKJ.reshape(batch * heads, -1),
            jnp.repeat(length_B, heads),
            *scales,
            pages_per_compute_block=in_block,
            k_splits=parts,
            attn_logits_soft_cap=request.scoring.softcap,
            interpret=self.interpret,
        )
        return y.reshape(batch, 1, n, width).astype(v.dtype)


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
