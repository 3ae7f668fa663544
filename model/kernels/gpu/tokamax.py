"""Attention on NVIDIA GPUs by the Mosaic kernel of tokamax, which is installed with the extra `tokamax`.

It does what cuDNN does not: packed documents, chunks, soft-caps, biases, and values of another width than keys (in the
timings that tokamax publishes for an H100, 493 TFLOP/s where cuDNN has 287 for widths 192 and 128).

A query sees a range of keys: `local_window_size` of `tokamax.dot_product_attention` is an array here, which says for
each query how many keys before its own it sees. Tokens of a document must lie side by side.
"""

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from model.kernels import refusals
from model.kernels.request import Request
from model.kernels.visibility import Visibility

INSTALL = "pip install -e '.[tokamax]'"

# A bias and its gradient are arrays of all scores. At most this many, 256 MiB in float32.
MAX_BIASES = 2**26


@dataclasses.dataclass(frozen=True)
class Tokamax:
    """See the module docstring."""

    name: str = "tokamax"
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
        import tokamax

        visibility, bias = request.visibility, request.bias
        before = keys_before(visibility)
        y_BTNH: jax.Array = tokamax.dot_product_attention(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            bias=None if bias is None else bias(visibility.queries, visibility.keys),
            scale=request.scoring.scale,
            is_causal=visibility.is_causal,
            local_window_size=None if before is None else (before, 0),
            logits_soft_cap=request.scoring.softcap,
            implementation="mosaic",
        )
        return y_BTNH.astype(v_BSKH.dtype)


def _refusals(request: Request) -> Iterator[str]:
    visibility, capability = request.visibility, request.compute_capability
    yield from refusals.of_platform(request, ("gpu",))
    if not is_installed():
        yield f"it is not installed: {INSTALL}"
    if capability not in ((9, 0), (10, 0)):
        yield f"it needs a GPU of compute capability 9.0 or 10.0, not {capability[0]}.{capability[1]}"
    yield from refusals.of_every_library(request)
    yield from refusals.of_dtypes(request, ("bfloat16", "float16"))
    if request.has_sinks:
        yield "it has no sinks"
    if request.bias is not None and request.scoring.softcap is not None:
        yield "it would cap the sum of product and bias, not the product alone"
    biases = math.prod((request.q.shape[0], request.q.shape[2], request.q.shape[1], request.k.shape[1]))
    if request.bias is not None and biases > MAX_BIASES:
        yield f"it would hold the biases of {biases:,} scores, more than {MAX_BIASES:,}"
    if any(x.shape[-1] % 8 for x in (request.q, request.v)):
        yield f"head widths are multiples of 8, not {request.q.shape[-1]} and {request.v.shape[-1]}"
    yield from refusals.of_own_keys(request)
    if not visibility.is_causal and (visibility.has_documents or visibility.patterns):
        yield "only for causal queries does a range of keys say which documents and patterns they see"
    for pattern in visibility.patterns:
        if pattern.reach() is None or not (
            pattern.depends_on_distance_alone or pattern.group(jnp.zeros(1)) is not None
        ):
            yield f"the keys of {pattern} are no range"
        elif not visibility.distances_are_static:
            yield f"{pattern} is about positions that only arrays know"


def keys_before(visibility: Visibility) -> jax.Array | None:
    """Returns how many keys before its own each causal query sees, int32 (B or 1, 1, T); None for all of them.

    That is the distance to the first token of its document, of its window, or of its chunk, whichever is nearest.
    """
    queries = visibility.queries
    number_BT = jnp.arange(queries.count, dtype=jnp.int32)[None]

    def to_first_equal(ids_BT: jax.Array) -> jax.Array:
        begins_BT = jnp.diff(ids_BT, prepend=ids_BT[:, :1]) != 0
        return number_BT - jax.lax.cummax(jnp.where(begins_BT, number_BT, 0), axis=1)

    limits = []
    if visibility.has_documents and queries.segment_ids is not None:
        limits.append(to_first_equal(queries.segment_ids))
    for pattern in visibility.patterns:
        group_BT = pattern.group(queries.positions())
        if group_BT is None:
            reach = pattern.reach()
            assert reach is not None, "see `_refusals`"
            limits.append(jnp.full((1, queries.count), reach - 1, jnp.int32))
        else:
            limits.append(to_first_equal(group_BT))
    return functools.reduce(jnp.minimum, limits)[:, None] if limits else None


@functools.cache
def is_installed() -> bool:
    """Whether tokamax can be imported; it is imported only where it runs."""
    return importlib.util.find_spec("tokamax") is not None
