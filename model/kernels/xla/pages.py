"""Attention to keys in pages, in blocks of a fixed number of keys from the first position on.

The sums over a query's keys grow block by block (Dao et al. 2022, "FlashAttention", algorithm 1). A block that a query
does not see leaves its sums as they are, to the bit, so the output of a query depends on its own keys alone: not on the
length of other rows, on the number of queries beside it, or on the pages in which its keys lie. This holds as far as
products of matrices do not depend on their number of rows; on a CPU they do not, from two rows on
(tests/benchmarks/README.md), and a single query is computed twice for this reason.

All rows of a group take as many blocks as the longest of them. On a CPU, where the time of a block grows with its rows,
a group has few, so that a short text does not pay for a long one; neighbours should be of similar lengths.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from model.kernels.paged_array import PagedArray
from model.kernels.request import Request
from model.kernels.visibility import Visibility
from model.kernels.xla.tiles import Sums, empty_sums, normalised

BLOCK = 128  # keys
CPU_GROUP = 2  # rows (tests/benchmarks/README.md)


@dataclasses.dataclass(frozen=True)
class Pages:
    """See the module docstring.

    Attributes:
      keys: the number of keys of a block; a whole number of pages is taken.
      group: the rows that take their blocks together on a CPU, where they divide all rows; None for all rows, which do
        so elsewhere too.
      name, platforms: see `Kernel`.
    """

    keys: int = BLOCK
    group: int | None = CPU_GROUP
    name: str = "pages"
    platforms: tuple[str, ...] = ()
    needs_cleared_pages: ClassVar[bool] = False

    def supports(self, request: Request) -> str | None:
        """Returns None unless weights are dropped."""
        return "it drops no weights" if request.dropout else None

    def attend(
        self, request: Request, q_BTNH: jax.Array, k: Any, v: Any, sink_N: jax.Array | None, dropout_keys: Any
    ) -> jax.Array:
        """See `Kernel`; keys and values are `PagedArray`s."""
        assert isinstance(k, PagedArray), "keys in pages"
        assert isinstance(v, PagedArray), "values in pages"
        visibility, (b, t, n, _) = request.visibility, q_BTNH.shape
        num_keys, num_heads, count = k.shape[1], k.shape[2], max(1, min(self.keys // k.page_size, k.table_BJ.shape[1]))
        if t * n == num_heads:  # a product with one query has another order of sums
            q_BTNH, visibility = jnp.concatenate([q_BTNH, q_BTNH], axis=1), visibility.padded(2 * t, num_keys)
        fill = -k.table_BJ.shape[1] % count
        if fill:
            slots = num_keys + fill * k.page_size
            visibility = visibility.padded(q_BTNH.shape[1], slots)
            if not visibility.causal:
                is_key_S = jnp.arange(slots) < num_keys
                visibility = visibility.with_mask(jnp.broadcast_to(is_key_S, (1, q_BTNH.shape[1], slots)))
        k_table_BJ, v_table_BJ = (jnp.pad(x.table_BJ, ((0, 0), (0, fill))) for x in (k, v))
        q_BKGTH = request.scoring.scale_and_group(q_BTNH, num_heads)
        sink_KG = None if sink_N is None else sink_N.reshape(q_BKGTH.shape[1:3])

        def attend_rows(
            q_BKGTH: jax.Array, k_table_BJ: jax.Array, v_table_BJ: jax.Array, length_B: Any, seen: Any
        ) -> jax.Array:
            keys = dataclasses.replace(k, table_BJ=k_table_BJ)
            values = dataclasses.replace(v, table_BJ=v_table_BJ, length_B=length_B)
            return _sum_over_blocks(request, count, q_BKGTH, keys, values, seen, sink_KG)

        group = b if self.group is None or request.platform != "cpu" else self.group
        y_BKGTH = _in_groups(attend_rows, group, q_BKGTH, k_table_BJ, v_table_BJ, v.length_B, visibility)
        return y_BKGTH.reshape(b, n, -1, v.shape[-1]).swapaxes(1, 2)[:, :t]


def _sum_over_blocks(
    request: Request,
    count: int,
    q_BKGTH: jax.Array,
    k: PagedArray,
    v: PagedArray,
    visibility: Visibility,
    sink_KG: jax.Array | None,
) -> jax.Array:
    """Returns the output of some rows, (B, K, G, T, H); a block has `count` pages."""
    scoring, block = request.scoring, count * k.page_size

    def add_block(j: jax.Array, sums: Sums) -> Sums:
        k_BKSH, v_BKSH = k.block(j * count, count), v.block(j * count, count)
        seen = visibility.sliced(0, visibility.queries.count, j * block, block)
        mask_BTS = seen.mask()
        assert mask_BTS is not None
        # Pages that were never written, or that another text has left, must not reach the sums through 0 * inf; padding
        # after a row's last query sees keys that were not written.
        is_seen_BS = jnp.any(mask_BTS, axis=1)
        if v.length_B is not None:
            is_seen_BS &= j * block + jnp.arange(block) < v.length_B[:, None]
        v_BKSH = jnp.where(is_seen_BS[:, None, :, None], v_BKSH, 0)
        scores = scoring.scores(scoring.products(q_BKGTH, k_BKSH), seen, request.bias)
        row_max = jnp.maximum(sums.row_max, jnp.max(scores, axis=-1, keepdims=True))
        weights = jnp.where(mask_BTS[:, None, None], jnp.exp(scores - row_max), 0)
        return sums.with_keys(row_max, weights, weights, v_BKSH)

    first, last = _blocks(visibility, block, k.shape[1] // block)
    empty = empty_sums(scoring, q_BKGTH.shape[:4], v.shape[-1], sink_KG)
    return normalised(jax.lax.fori_loop(first, last, add_block, empty), v.dtype)


def _blocks(visibility: Visibility, block: int, count: int) -> tuple[jax.Array, jax.Array]:
    """Returns the first and the end of the blocks that any query sees; without an order, up to its last document."""
    if not visibility.causal:
        return jnp.int32(0), jnp.minimum((_end_of_documents(visibility) + block - 1) // block, count)
    index_BT, reach = visibility.queries.indices(), visibility.reach
    last = jnp.minimum(jnp.max(index_BT) // block + 1, count)
    first = 0 if reach is None else jnp.maximum(jnp.min(index_BT) - reach + 1, 0) // block
    return jnp.asarray(first, jnp.int32), jnp.asarray(last, jnp.int32)


def _end_of_documents(visibility: Visibility) -> jax.Array:
    """Returns the number of keys up to the last one that may be of a query's document."""
    queries, keys = visibility.queries.segment_ids, visibility.keys.segment_ids
    if queries is None or keys is None:
        return jnp.int32(visibility.keys.count)
    among_BS = (keys >= jnp.min(queries)) & (keys <= jnp.max(queries))
    return jnp.max(jnp.where(among_BS, jnp.arange(1, visibility.keys.count + 1, dtype=jnp.int32), 0))


def _in_groups(function: Callable[..., jax.Array], group: int, *inputs: Any) -> jax.Array:
    """Returns the results of a function for groups of rows, one group after the other.

    Arrays of the inputs whose first axis is not the rows, (1, ...) or (), are the same for all groups.
    """
    leaves, tree = jax.tree.flatten(inputs)
    rows = leaves[0].shape[0]
    if rows <= group or rows % group:
        return function(*inputs)
    of_rows = [x.ndim > 0 and x.shape[0] == rows for x in leaves]

    def one(parts: list[jax.Array]) -> jax.Array:
        left = iter(parts)
        some = [next(left) if cut else x for x, cut in zip(leaves, of_rows, strict=True)]
        return function(*jax.tree.unflatten(tree, some))

    cut = [x.reshape(rows // group, group, *x.shape[1:]) for x, cut in zip(leaves, of_rows, strict=True) if cut]
    y = jax.lax.map(one, cut)
    return y.reshape(rows, *y.shape[2:])
