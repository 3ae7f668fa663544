"""Caches of attention. A cache owns its layout: the slot of each token, the keys that it holds, and their positions.

A layer gives a cache the arrays of new tokens, and the cache returns all keys that the layer's queries may see:

    cache, view = cache.extend({"k": k_BTKH, "v": v_BTKH}, positions_BT)
    visibility.with_keys(view.keys)

There are two layouts. In a contiguous cache, slot p holds the token at position p of its row. Padding is written to
later slots: no query of a real token sees it, and the real token overwrites it. In a ring of R slots, for layers whose
queries see at most the last R tokens, slot p mod R holds the newest token of these positions; padding is not written,
since it would overwrite a token that is still seen.
"""

import abc
import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
from flax import struct

from model.kernels.paged_array import PagedArray
from model.kernels.visibility import Coordinates
from model.layout import Layout

# The position of an empty slot: after every query, so that no query sees the slot.
EMPTY_SLOT_POSITION = 2**30


@struct.dataclass
class CacheView:
    """The keys that queries may see.

    Attributes:
      arrays: the cached arrays of every key, by name, each (B, S, K, H), or the pages that hold it.
      keys: the positions of the keys.
    """

    arrays: dict[str, jax.Array | PagedArray]
    keys: Coordinates


@struct.dataclass
class AttentionCache(abc.ABC):
    """The cache of one layer: arrays of the tokens that it has read.

    Attributes:
      arrays: by name, each (B, K, S, H): a head's slots are contiguous, as products with queries read them.
      heads: the logical name of axis K; None if it is never split.
    """

    arrays: dict[str, jax.Array]
    heads: str | None = struct.field(pytree_node=False, default=None)

    @property
    def length(self) -> int:
        """The number of slots in a row."""
        return next(iter(self.arrays.values())).shape[2]

    @abc.abstractmethod
    def extend(
        self, new: dict[str, jax.Array], positions_BT: jax.Array, length_B: jax.Array | None = None
    ) -> tuple[Self, CacheView]:
        """Adds new tokens.

        Args:
          new: the arrays to keep of these tokens, by name, each (B, T, K, H).
          positions_BT: their positions in the rows, consecutive in each row and after the tokens read before.
          length_B: the number of tokens in each row's text; later positions are padding. None for no padding.

        Returns:
          The cache with the new tokens, and all keys that their queries may see, the new ones included.
        """

    def sharded(self, layout: Layout) -> Self:
        """Returns the cache sharded over the mesh."""
        axes = ("batch", self.heads, "key_sequence", None if self.heads is None else "head_dim")
        return dataclasses.replace(self, arrays={name: layout.constrain(x, axes) for name, x in self.arrays.items()})

    def _write(self, new: dict[str, jax.Array], slot_BT: jax.Array) -> Self:
        """Returns the cache with new tokens at their slots; a token whose slot is past the end is dropped."""
        rows_B1 = jnp.arange(slot_BT.shape[0])[:, None]
        write = lambda x, x_BTKH: x.at[rows_B1, :, slot_BT].set(x_BTKH.astype(x.dtype), mode="drop")  # noqa: E731
        return dataclasses.replace(self, arrays={name: write(x, new[name]) for name, x in self.arrays.items()})

    def _slots_first(self) -> dict[str, jax.Array]:
        """Returns the arrays as (B, S, K, H)."""
        return {name: x.swapaxes(1, 2) for name, x in self.arrays.items()}


@struct.dataclass
class ContiguousCache(AttentionCache):
    """A cache with a slot for every position; see the module."""

    def extend(
        self, new: dict[str, jax.Array], positions_BT: jax.Array, length_B: jax.Array | None = None
    ) -> tuple[Self, CacheView]:
        """See `AttentionCache`; tokens at positions past the last slot are dropped."""
        cache = self._write(new, positions_BT)
        return cache, CacheView(cache._slots_first(), Coordinates(self.length))


@struct.dataclass
class RingCache(AttentionCache):
    """A cache with slots for the last tokens only; see the module."""

    def extend(
        self, new: dict[str, jax.Array], positions_BT: jax.Array, length_B: jax.Array | None = None
    ) -> tuple[Self, CacheView]:
        """See `AttentionCache`.

        Several new tokens see the old ring and each other: the last may overwrite keys of the first.
        """
        last_B1 = positions_BT[:, -1:] if length_B is None else jnp.minimum(positions_BT[:, -1:], length_B[:, None] - 1)
        is_written_BT = (positions_BT <= last_B1) & (positions_BT > last_B1 - self.length)
        cache = self._write(new, jnp.where(is_written_BT, positions_BT % self.length, self.length))
        if positions_BT.shape[1] == 1:
            index_BS = _slot_positions(last_B1, self.length)
            return cache, CacheView(cache._slots_first(), Coordinates(self.length, index=index_BS))
        before_B1 = jnp.minimum(positions_BT[:, :1] - 1, last_B1)
        index_BS = jnp.concatenate([_slot_positions(before_B1, self.length), positions_BT], axis=1)
        join = lambda x, x_BTKH: jnp.concatenate([x, x_BTKH.astype(x.dtype)], axis=1)  # noqa: E731
        arrays = {name: join(x, new[name]) for name, x in self._slots_first().items()}
        return cache, CacheView(arrays, Coordinates(index_BS.shape[1], index=index_BS))


def _slot_positions(last_B1: jax.Array, slots: int) -> jax.Array:
    """Returns the position of the token in each slot of a ring (B, slots), after the token at `last_B1` was read."""
    position_BS = last_B1 - (last_B1 - jnp.arange(slots)) % slots
    return jnp.where(position_BS < 0, EMPTY_SLOT_POSITION, position_BS)


def make_cache(
    batch: int, length: int, dtype: str, reach: int | None, heads: str | None = None, **sizes: tuple[int, int]
) -> ContiguousCache | RingCache:
    """Returns a cache of zeros for `batch` rows of at most `length` tokens.

    Args:
      batch, length: the size of the cache.
      dtype: the dtype of its arrays.
      reach: a query sees at most this many of the last tokens; None for all tokens.
      heads: see `AttentionCache`.
      sizes: the number of heads and the width (K, H) of each array, by its name.
    """
    slots, cache_type = (length, ContiguousCache) if reach is None or reach >= length else (reach, RingCache)
    arrays = {name: jnp.zeros((batch, k, slots, h), dtype) for name, (k, h) in sizes.items()}
    return cache_type(arrays, heads)
