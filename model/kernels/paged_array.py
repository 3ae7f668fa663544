"""Keys or values that lie in pages of a pool, which all rows share; some kernels read these in place of arrays.

Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention", section 4.1.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct


@dataclasses.dataclass(frozen=True)
class PageForm:
    """The structure of pages that a kernel must know, without their arrays.

    Attributes:
      size: the positions of a page.
      count: J, the pages of a row.
      dtype: that of the numbers in pages.
      has_scales, cleared: see `PagedArray`.
    """

    size: int
    count: int
    dtype: str
    has_scales: bool
    cleared: bool


@struct.dataclass
class PagedArray:
    """An array (B, S, K, H) whose rows are lists of pages.

    Attributes:
      pages: the pool, (P, K, page size, H).
      table_BJ: the pages of each row in the order of positions (int32): page j has the positions from j * page size on.
        An entry whose positions no query sees may be the number of any page.
      scales: of pages in a smaller format, the factor of each position and head, (P, K, page size, 1); None for none.
      dtype_of_products: with scales, the dtype of `block`.
      length_B: how many positions of each row were written, int32; None if no query sees others.
      cleared: whether the positions of a row's pages that it has not written hold numbers, and not NaN or infinities of
        another text; kernels that give such keys the weight 0 need it.
    """

    pages: jax.Array
    table_BJ: jax.Array
    scales: jax.Array | None = None
    dtype_of_products: str | None = struct.field(pytree_node=False, default=None)
    length_B: jax.Array | None = None
    cleared: bool = struct.field(pytree_node=False, default=False)

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
        return self.pages.dtype if self.dtype_of_products is None else jnp.dtype(self.dtype_of_products)

    @property
    def form(self) -> PageForm:
        """The structure of the pages."""
        return PageForm(
            self.page_size, self.table_BJ.shape[1], str(self.pages.dtype), self.scales is not None, self.cleared
        )

    def by_head(self) -> tuple[jax.Array, jax.Array]:
        """Returns the pool as one head of P * K pages, (1, P * K, page size, H), and the pages of each row and head.

        The table is (B, K, J). The tokens of a page and head lie side by side, so this copies nothing of the pool.
        """
        count, heads, *rest = self.pages.shape
        table_BKJ = self.table_BJ[:, None] * heads + jnp.arange(heads, dtype=jnp.int32)[:, None]
        return self.pages.reshape(1, count * heads, *rest), table_BKJ

    def seen(self, index_B1: jax.Array, multiple: int) -> tuple[jax.Array, "PagedArray"]:
        """Returns how many keys the one query of each row sees, by its index, and a table of a multiple of pages.

        Entries past the last page that a row sees are that page.
        """
        batch, count = self.table_BJ.shape
        length_B = jnp.broadcast_to(index_B1[:, 0], (batch,)) + 1
        last_B1 = ((length_B - 1) // self.page_size)[:, None]
        entry_J = jnp.arange(-(-count // multiple) * multiple, dtype=jnp.int32)
        table_BJ = jnp.take_along_axis(self.table_BJ, jnp.minimum(entry_J, jnp.minimum(last_B1, count - 1)), axis=1)
        return length_B.astype(jnp.int32), dataclasses.replace(self, table_BJ=table_BJ)

    def block(self, first: jax.Array | int, count: int) -> jax.Array:
        """Returns `count` pages of every row, from page number `first` on, as (B, K, count * page size, H)."""
        page_BJ = jax.lax.dynamic_slice_in_dim(self.table_BJ, first, count, axis=1)
        block_BJKSH = self.pages[page_BJ]
        if self.scales is not None:
            block_BJKSH = (block_BJKSH.astype(jnp.float32) * self.scales[page_BJ]).astype(self.dtype)
        block_BKJSH = block_BJKSH.swapaxes(1, 2)
        return block_BKJSH.reshape(*block_BKJSH.shape[:2], -1, block_BKJSH.shape[-1])


def quantized(x_BTKH: jax.Array, dtype: jax.typing.DTypeLike) -> tuple[jax.Array, jax.Array]:
    """Returns keys or values in a smaller format, and the scale of each token and head, float32 (B, T, K, 1).

    The largest of a head's numbers gets the largest number of the format; integers are rounded to the nearest.
    """
    is_float = jnp.issubdtype(dtype, jnp.floating)
    largest = float(jnp.finfo(dtype).max if is_float else jnp.iinfo(dtype).max)
    x_BTKH = x_BTKH.astype(jnp.float32)
    scale_BTK1 = jnp.max(jnp.abs(x_BTKH), axis=-1, keepdims=True) / largest
    scaled_BTKH = jnp.clip(x_BTKH / jnp.where(scale_BTK1 == 0, 1, scale_BTK1), -largest, largest)
    return (scaled_BTKH if is_float else jnp.round(scaled_BTKH)).astype(dtype), scale_BTK1
