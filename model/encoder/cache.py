"""What decoding keeps of a source: its keys and values in every layer, made once for a request."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from model.attention.paged_cache import PagedCache
from model.encoder.source import PADDING, segments_of_lengths
from model.layout import Layout


class KeptSource(NamedTuple):
    """What a cache holds of the sources of its rows: keys and values (B, S, K, H), and the document of each slot.

    `PagedSourceCache` has a `model.kernels.paged_array.PagedArray` of keys, and one of values.
    """

    k_BSKH: Any
    v_BSKH: Any
    segment_ids_BS: jax.Array


@struct.dataclass
class SourceCache:
    """The keys and values of a source in one layer.

    Attributes:
      k_BKSH, v_BKSH: keys and values; a head's slots are contiguous, as products with queries read them.
      segment_ids_BS: the document of each slot, `PADDING` for one that no query sees.
    """

    k_BKSH: jax.Array
    v_BKSH: jax.Array
    segment_ids_BS: jax.Array

    def filled(self, k_BSKH: jax.Array, v_BSKH: jax.Array, segment_ids_BS: jax.Array | None) -> "SourceCache":
        """Returns the cache of a source, which may have fewer tokens than the cache has slots."""
        slots = self.k_BKSH.shape[2]
        missing = slots - k_BSKH.shape[1]
        if segment_ids_BS is None:
            segment_ids_BS = jnp.zeros(k_BSKH.shape[:2], jnp.int32)

        def in_slots(x_BSKH: jax.Array) -> jax.Array:
            return jnp.pad(x_BSKH.swapaxes(1, 2), ((0, 0), (0, 0), (0, missing), (0, 0))).astype(self.k_BKSH.dtype)

        padded = jnp.pad(segment_ids_BS, ((0, 0), (0, missing)), constant_values=PADDING)
        return SourceCache(in_slots(k_BSKH), in_slots(v_BSKH), padded)

    def kept(self) -> KeptSource:
        """Returns the source that was read."""
        return KeptSource(self.k_BKSH.swapaxes(1, 2), self.v_BKSH.swapaxes(1, 2), self.segment_ids_BS)

    def sharded(self, layout: Layout) -> "SourceCache":
        """Returns the cache sharded over the mesh."""
        k_BKSH, v_BKSH = (
            layout.constrain(x, ("batch", "kv_heads", "key_sequence", "head_dim")) for x in (self.k_BKSH, self.v_BKSH)
        )
        return SourceCache(k_BKSH, v_BKSH, layout.constrain(self.segment_ids_BS, ("batch", None)))


@struct.dataclass
class PagedSourceCache:
    """The keys and values of the sources of some rows in one layer, in pages (model/inference/engine).

    Attributes:
      pages: of all rows, with the arrays "k" and "v"; its table has the pages of these rows.
      lengths_B: the tokens of each source; slots after them are seen by no query.
      dtype: that of products.
    """

    pages: PagedCache
    lengths_B: jax.Array
    dtype: str = struct.field(pytree_node=False)

    def filled(self, k_BSKH: jax.Array, v_BSKH: jax.Array, segment_ids_BS: jax.Array | None) -> "PagedSourceCache":
        """Returns the cache of sources, each one document and then padding, which is not written."""
        positions_BS = jnp.broadcast_to(jnp.arange(k_BSKH.shape[1], dtype=jnp.int32), k_BSKH.shape[:2])
        pages, _ = self.pages.extend({"k": k_BSKH, "v": v_BSKH}, positions_BS, self.lengths_B)
        return dataclasses.replace(self, pages=pages)

    def kept(self) -> KeptSource:
        """Returns the sources of the rows."""
        k, v = self.pages.array("k", self.dtype), self.pages.array("v", self.dtype)
        return KeptSource(k, v, segments_of_lengths(k.shape[1], self.lengths_B))

    def sharded(self, layout: Layout) -> "PagedSourceCache":
        """Returns the cache with its pages split over the mesh by heads."""
        return dataclasses.replace(self, pages=self.pages.sharded(layout))


# What decoding keeps of a source.
AnySourceCache = SourceCache | PagedSourceCache


@struct.dataclass
class DecoderLayerCache:
    """The caches of a decoder layer that reads a source: of its mixer, None if that has none, and of its source."""

    mixer: Any
    source: Any

    def sharded(self, layout: Layout) -> "DecoderLayerCache":
        """Returns the caches sharded over the mesh."""
        mixer = None if self.mixer is None else self.mixer.sharded(layout)
        return dataclasses.replace(self, mixer=mixer, source=self.source.sharded(layout))


def empty_source_cache(
    batch: int, slots: int, heads: int, head_dim: int, dtype: str, value_dim: int | None = None
) -> SourceCache:
    """Returns the cache of a source before it is read: nothing is seen. Values are as wide as keys if None is given."""
    k_BKSH, v_BKSH = (jnp.zeros((batch, heads, slots, width), dtype) for width in (head_dim, value_dim or head_dim))
    return SourceCache(k_BKSH, v_BKSH, jnp.full((batch, slots), PADDING, jnp.int32))
