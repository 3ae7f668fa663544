"""A cache whose tokens lie in pages of a pool, which all rows share; see `PagedArray` and model/inference/engine/."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from model.attention.cache import AttentionCache, CacheView
from model.kernels.paged_array import PagedArray, quantized
from model.kernels.visibility import Coordinates
from model.layout import Layout

SCALE = "_scale"  # ends the name of the scales of an array


@struct.dataclass
class PagedCache(AttentionCache):
    """The pages of one layer, and those of each row.

    Attributes:
      arrays: by name, each (P, K, page size, H). An array NAME beside one NAME_scale, whose width is 1, has a smaller
        format, and the other has its scales.
      table_BJ: the pages of each row, as in `PagedArray`; rows may share pages that they do not write.
      clears: whether a page is filled with zeros before its first token is written, so that nothing of another text is
        left in it (`PagedArray.cleared`). Pages are written from their first token on.
    """

    table_BJ: jax.Array | None = None
    clears: bool = struct.field(pytree_node=False, default=False)

    def extend(
        self, new: dict[str, jax.Array], positions_BT: jax.Array, length_B: jax.Array | None = None
    ) -> tuple["PagedCache", CacheView]:
        """See `AttentionCache`; padding is not written."""
        assert self.table_BJ is not None, "the pages of rows"
        assert length_B is not None, "the lengths of rows"
        (num_pages, heads, size, _), count = next(iter(self.arrays.values())).shape, self.table_BJ.shape[1]
        page_BT = jnp.take_along_axis(self.table_BJ, jnp.minimum(positions_BT // size, count - 1), axis=1)
        page_BT = jnp.where(positions_BT < length_B[:, None], page_BT, num_pages)
        slot_BT = positions_BT % size

        def write(x: jax.Array, x_BTKH: jax.Array) -> jax.Array:
            x_BTKH = x_BTKH.astype(x.dtype)
            if not self.clears:
                return x.at[page_BT, :, slot_BT].set(x_BTKH, mode="drop")
            return x.at[page_BT[..., None], heads_K, slot_BT[..., None]].set(x_BTKH, mode="drop")

        arrays = dict(self.arrays)
        if self.clears:
            # A write has the numbers of one head: with those of all heads XLA on a TPU copies the pool between writes.
            heads_K, begun_BT = jnp.arange(heads), jnp.where(slot_BT == 0, page_BT, num_pages)
            clear = lambda x: x.at[begun_BT[..., None], heads_K].set(0, mode="drop")  # noqa: E731
            arrays = {name: clear(x) for name, x in arrays.items()}
        for name, x_BTKH in new.items():
            if (scale_name := name + SCALE) in arrays:
                x_BTKH, scale_BTK1 = quantized(new[name], arrays[name].dtype)
                arrays[scale_name] = write(arrays[scale_name], scale_BTK1)
            arrays[name] = write(arrays[name], x_BTKH)
        after = dataclasses.replace(self, arrays=arrays)
        view = {name: after.array(name, str(x_BTKH.dtype), length_B) for name, x_BTKH in new.items()}
        return after, CacheView(view, Coordinates(count * size))

    def array(self, name: str, dtype: str, length_B: jax.Array | None = None) -> PagedArray:
        """Returns what the cache holds under a name; the dtype is that of products, for a smaller format."""
        assert self.table_BJ is not None, "the pages of rows"
        scales = self.arrays.get(name + SCALE)
        dtype_of_products = None if scales is None else dtype
        return PagedArray(self.arrays[name], self.table_BJ, scales, dtype_of_products, length_B, self.clears)

    def sharded(self, layout: Layout) -> "PagedCache":
        """Returns the cache with its pages split over the mesh by heads."""
        axes = (None, self.heads, None, None if self.heads is None else "head_dim")
        return dataclasses.replace(self, arrays={name: layout.constrain(x, axes) for name, x in self.arrays.items()})
