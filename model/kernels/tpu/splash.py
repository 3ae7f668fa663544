"""Attention on TPUs by the Pallas kernel "splash attention" of JAX, which skips blocks that no query sees.

Dao 2023, "FlashAttention-2", for TPUs: the kernel keeps one block of scores on the chip, and makes its mask there.
Causality and patterns are functions of indices, which must be known while tracing; documents are compared inside.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.attention.patterns import Pattern, SlidingWindow
from model.kernels import refusals
from model.kernels.request import Request
from model.kernels.visibility import Coordinates, Visibility

# The kernel works on lanes of 128 numbers, and blocks of queries and keys are multiples of that.
LANES = 128

# The largest blocks for which the forward and the backward pass at head width 256 fit into the 16 MiB that the compiler
# grants a kernel, on v5e, v5p and v6e (tests/benchmarks/tpu_kernels.py); blocks of 2,048 do not. In the timings that
# tokamax publishes for a TPU v7x, the fastest forward pass at head width 128 and 4,096 tokens has the same blocks.
MAX_BLOCK, MAX_COMPUTE_BLOCK = 1024, 512


@dataclasses.dataclass(frozen=True)
class Splash:
    """See the module docstring.

    Attributes:
      interpret: runs the kernel as plain operations, on any platform: slow, for tests.
      max_block: the largest number of queries, and of keys, of a block.
      name: the name of the kernel.
    """

    interpret: bool = False
    max_block: int = MAX_BLOCK
    name: str = "splash"

    @property
    def platforms(self) -> tuple[str, ...]:
        """See `Kernel`."""
        return () if self.interpret else ("tpu",)

    def supports(self, request: Request) -> str | None:
        """Returns None if the kernel takes a request, else the reason why it does not."""
        return refusals.first(self._refusals(request))

    def _refusals(self, request: Request) -> Iterator[str]:
        visibility, (t, s) = request.visibility.of_whole_row, (request.q.shape[1], request.k.shape[1])
        yield from refusals.of_platform(request, self.platforms)
        yield from refusals.of_every_library(request, visibility)
        yield from refusals.of_dtypes(request, ("bfloat16", "float32"))
        if request.bias is not None:
            yield "it adds no bias to scores"
        if t % LANES or s % LANES:
            yield f"{t:,} queries and {s:,} keys are not both a multiple of {LANES}"
        for pattern in visibility.patterns:
            if pattern.divides and not pattern.has_groups:
                yield f"{pattern} divides positions, which it is not compiled for"
            elif not (_is_static(visibility, pattern) or pattern.has_groups):
                yield f"{pattern} is about positions that only arrays know"
        if request.visibility.queries.parts > 1 and visibility.patterns and not visibility.is_causal:
            yield "its tables for parts of a row need a causal order, or no pattern"
        queries, keys = visibility.queries, visibility.keys
        if queries.start < keys.start or queries.start + queries.count > keys.start + s:
            yield "some query has no key at its own index, and a query that sees no key makes it return NaN"

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
        from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel import SegmentIds

        visibility, (batch, t) = request.visibility, q_BTNH.shape[:2]
        mask, parts = _static_part(visibility.of_whole_row), visibility.queries.parts
        if not visibility.is_causal:  # then all parts see the same keys
            mask, parts = ((t, k_BSKH.shape[1]), *mask[1:]), 1
        kernel = _kernel(mask, parts, request.scoring.softcap, self.max_block, self.interpret)
        if parts > 1:
            assert visibility.queries.offset is not None
            kernel = _of_part(kernel, parts, visibility.queries.offset // t)
        q_BNTH = (q_BTNH * jnp.asarray(request.scoring.scale, q_BTNH.dtype)).swapaxes(1, 2)
        k_BKSH, v_BKSH = k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2)
        ids = [
            None if ids is None else jnp.broadcast_to(ids, (batch, ids.shape[1])) for ids in _segment_ids(visibility)
        ]

        def row(q: jax.Array, k: jax.Array, v: jax.Array, q_ids: Any, k_ids: Any) -> jax.Array:
            return kernel(q, k, v, None if q_ids is None else SegmentIds(q_ids, k_ids), sinks=sink_N)

        return jax.vmap(row)(q_BNTH, k_BKSH, v_BKSH, *ids).swapaxes(1, 2).astype(v_BSKH.dtype)


def _is_static(visibility: Visibility, pattern: Pattern) -> bool:
    """Whether the pairs of a pattern follow from indices that are known while tracing."""
    if visibility.positions_are_static:
        return True
    return visibility.distances_are_static and pattern.depends_on_distance_alone


def _static_part(visibility: Visibility) -> tuple[Any, ...]:
    """Returns size, starts, causality and patterns: the fields of `StaticMask`."""
    queries, keys = visibility.queries, visibility.keys
    patterns = [pattern for pattern in visibility.patterns if _is_static(visibility, pattern)]
    if len(patterns) < len(visibility.patterns) and visibility.reach is not None:
        patterns.append(SlidingWindow(size=visibility.reach))  # the rest sees no farther keys: their blocks are skipped
    return (queries.count, keys.count), (queries.start, keys.start), visibility.is_causal, tuple(patterns)


def _segment_ids(visibility: Visibility) -> tuple[jax.Array | None, jax.Array | None]:
    """Returns numbers (B or 1, T) and (B or 1, S) for queries and keys, which see each other if these are equal.

    They are the documents, and within them the groups (chunks) of patterns.
    """
    groups = [pattern for pattern in visibility.patterns if pattern.has_groups]
    sides = (visibility.queries, visibility.keys)
    ids: list[jax.Array | None] = [side.segment_ids for side in sides] if visibility.has_documents else [None, None]
    for pattern in groups:
        of_sides = [_group(pattern, side) for side in sides]
        count = jnp.maximum(*(jnp.max(group) for group in of_sides)) + 1
        ids = [group if old is None else old * count + group for old, group in zip(ids, of_sides, strict=True)]
    return ids[0], ids[1]


def _group(pattern: Pattern, side: Coordinates) -> jax.Array:
    group = pattern.group(side.positions())
    assert group is not None, "see `supports`"
    return group


@functools.lru_cache(maxsize=64)
def _kernel(mask_fields: tuple[Any, ...], parts: int, softcap: float | None, max_block: int, interpret: bool) -> Any:
    """Returns the kernel for a mask; its tables of blocks are numpy arrays, which every trace may share.

    They are those of `parts` equal parts of the queries, side by side.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask import MultiHeadMask

    from model.kernels.tpu.splash_mask import StaticMask

    mask = StaticMask(*mask_fields)
    block_q, block_kv = (block_size(length, max_block) for length in (mask.size[0] // parts, mask.size[1]))
    compute = block_size(block_kv, MAX_COMPUTE_BLOCK)
    sizes = splash.BlockSizes(
        block_q=block_q,
        block_kv=block_kv,
        block_kv_compute=compute,
        block_q_dkv=block_q,
        block_kv_dkv=block_kv,
        block_kv_dkv_compute=compute,
        block_q_dq=block_q,
        block_kv_dq=block_kv,
    )
    with jax.ensure_compile_time_eval():
        kernel = splash.make_splash_mha(  # one mask for all heads
            MultiHeadMask([mask]),
            block_sizes=sizes,
            attn_logits_soft_cap=softcap,
            head_shards=1,
            q_seq_shards=parts,
            interpret=interpret,
        )
        return jax.tree.map(np.asarray, kernel)


def _of_part(kernel: Any, parts: int, number: jax.Array) -> Any:
    """Returns the kernel with the tables of one part of the queries.

    Tables of blocks are (heads, queries, keys), and the numbers of queries are (queries,).
    """

    def cut(table: np.ndarray) -> jax.Array:
        axis = 1 if table.ndim == 3 else 0
        count = table.shape[axis] // parts
        return jax.lax.dynamic_slice_in_dim(jnp.asarray(table), number * count, count, axis)

    assert kernel.fwd_mask_info.partial_mask_blocks is None, "masks are made inside"
    return jax.tree.map(cut, kernel)


def block_size(length: int, largest: int) -> int:
    """Returns the largest multiple of 128 that divides a length and is at most `largest`."""
    return max(size for size in range(LANES, min(length, largest) + 1, LANES) if length % size == 0)
