"""Attention to pages on TPUs by the Pallas kernel "paged attention" of JAX, for one query a row.

Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention", section 4.1: the
kernel copies the pages of a row into the chip's memory, the next ones while it reads these, and stops at the row's
length. The order of a row's sums follows from its own length.

The kernel expects pools (K, P, page size, H), and ours are (P, K, page size, H). It is given a pool of one head whose
pages are those of all heads, and each head of a row as a row of its own (`PagedArray.by_head`): no copy of the pool, as
tests/benchmarks/tpu_kernels.py reads in the program that libtpu compiles. A page of a head is copied at once; 16 tokens
of 128 numbers are 4 KiB, so larger pages (`engine.page_size`) should be read faster. No TPU has run it yet. What no
query sees is multiplied by 0, see model/kernels/gpu/pages.py.

JAX's "ragged paged attention" also takes several queries a row. Its pool holds keys and values of all heads of a token
side by side, (P, page size, 2 K, H), in one array. Ours would be copied in every step, or stored so; then latent
attention, scales and unequal widths need a second cache, and so does the kernel for all platforms, whose products read
the tokens of a head side by side. So parts of prompts go to the kernel for all platforms.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from model.kernels import refusals
from model.kernels.paged_array import PagedArray
from model.kernels.request import Request

MODULE = "jax.experimental.pallas.ops.tpu.paged_attention"
BLOCK = 512  # keys
LANES = 128  # numbers that a core takes at once; heads are as wide
WIDTHS = (LANES, 2 * LANES)
MAX_TABLE = 960 << 10  # bytes; the memory of scalars has 1 MiB on v4 and v5e


@dataclasses.dataclass(frozen=True)
class TPUPages:
    """See the module docstring.

    Attributes:
      interpret: runs the kernel as plain operations, on any platform: slow, for tests.
      keys: the keys that are copied at once; a whole number of pages is taken.
      name: the name of the kernel.
    """

    interpret: bool = False
    keys: int = BLOCK
    name: str = "tpu_pages"
    needs_cleared_pages: ClassVar[bool] = True

    @property
    def platforms(self) -> tuple[str, ...]:
        """See `Kernel`."""
        return () if self.interpret else ("tpu",)

    def supports(self, request: Request) -> str | None:
        """Returns None if the kernel takes a request, else the reason why it does not."""
        return refusals.first(self._refusals(request))

    def _refusals(self, request: Request) -> Iterator[str]:
        batch, _, _, width = request.q.shape
        yield from refusals.of_platform(request, self.platforms)
        yield from refusals.of_module(MODULE)
        yield from refusals.of_pages(request)
        if request.pages is None:
            return
        if request.pages.has_scales:
            yield f"it would copy the scales of {request.pages.dtype} pages for each number of a head"
        yield from refusals.of_dtypes(request, ("bfloat16",))  # it rounds others to bfloat16
        if width not in WIDTHS:
            yield f"its head widths are {' and '.join(map(str, WIDTHS))}, not {width}"
        table = 4 * batch * request.k.shape[2] * _padded(request.pages.count, self._in_block(request.pages.size))
        if table > MAX_TABLE:
            yield (
                f"its table of {table:,} bytes, 4 for each page of each row and key head, is over {MAX_TABLE:,}; "
                f"larger pages make it smaller"
            )

    def _in_block(self, page_size: int) -> int:
        """Returns the pages that are copied at once."""
        return max(1, self.keys // page_size)

    def attend(
        self, request: Request, q_BTNH: jax.Array, k: Any, v: Any, sink_N: jax.Array | None, dropout_keys: Any
    ) -> jax.Array:
        """See `Kernel`; keys and values are `PagedArray`s."""
        from jax.experimental.pallas import tpu as pltpu
        from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention

        assert isinstance(k, PagedArray), "keys in pages"
        assert isinstance(v, PagedArray), "values in pages"
        (batch, _, n, width), heads, in_block = q_BTNH.shape, k.shape[2], self._in_block(k.page_size)
        length_B, k = k.seen(request.visibility.queries.indices(), in_block)
        (k_pages, table_BKJ), (v_pages, _) = k.by_head(), v.by_head()
        q_BKGH = request.scoring.scale_and_group(q_BTNH, heads)[:, :, :, 0]
        with pltpu.force_tpu_interpret_mode() if self.interpret else contextlib.nullcontext():
            y: jax.Array = paged_attention(
                q_BKGH.reshape(batch * heads, n // heads, width),
                k_pages,
                v_pages,
                jnp.repeat(length_B, heads),
                table_BKJ.reshape(batch * heads, -1),
                pages_per_compute_block=in_block,
                attn_logits_soft_cap=request.scoring.softcap,
            )
        return y.reshape(batch, 1, n, width)


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
