"""Keys or values that lie in pages of a pool, shared by all rows; a kernel that reads pages gets these in place of arrays.

Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention", section 4.1.
"""

import jax
from flax import struct


@struct.dataclass
class PagedArray:
    """An array (B, S, K, H) whose rows are lists of pages.

    Attributes:
      pages: the pool, (P, K, page size, H).
      table_BJ: the pages of each row in the order of positions (int32): page j has the positions from j * page size on.
        An entry whose positions no query sees may be the number of any page.
    """

    pages: jax.Array
    table_BJ: jax.Array

    @property
    def page_size(self) -> int:
        """The number of positions in a page."""
        return self.pages.shape[2]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, S, K, H)."""
        _, heads, size, width = self.pages.shape
        rows, count = self.table_BJ.shape
        return rows, count * size, heads, width

    @property
    def dtype(self) -> jax.typing.DTypeLike:
        """The dtype of keys or values."""
        return self.pages.dtype

    def block(self, first: jax.Array | int, count: int) -> jax.Array:
        """Returns `count` pages of every row, from page number `first` on, as (B, K, count * page size, H)."""
        page_BJ = jax.lax.dynamic_slice_in_dim(self.table_BJ, first, count, axis=1)
        block_BKJSH = self.pages[page_BJ].swapaxes(1, 2)
        return block_BKJSH.reshape(*block_BKJSH.shape[:2], -1, block_BKJSH.shape[-1])
