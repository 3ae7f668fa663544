"""The caches of attention, which own their layout: which slot a token has, which keys there are, and where they stand.

A layer gives a cache what it keeps of new tokens, and is answered by all keys that its queries may see:

    cache, view = cache.extend({"k": k_BTKH, "v": v_BTKH}, positions_BT)
    visibility.over(view.keys)

Two layouts. In a contiguous one slot p holds the token at position p of its row. What padding left behind lies in later
slots: no query of a real token sees it, and it is overwritten when the real token comes. In a ring of R slots, for
layers whose queries see the last R tokens at most, slot p mod R holds the newest token of these positions; padding is
not written, since it would take the slot of a token that is still seen.
"""

import abc
import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
from flax import struct

from model.kernels.visibility import Coordinates
from model.layout import Layout

# The position of a slot that holds nothing, for the moment of a call: after every query, so that none sees it.
NOWHERE = 2**30


@struct.dataclass
class View:
    """What queries may see.

    Attributes:
      arrays: what is kept of every key, by name, each (B, S, K, H).
      keys: where the keys stand.
    """

    arrays: dict[str, jax.Array]
    keys: Coordinates


@struct.dataclass
class Slots(abc.ABC):
    """What one layer keeps of the tokens that it has read.

    Attributes:
      arrays: by name, each (B, K, S, H): a head's slots lie side by side, as products with its queries read them.
      heads: the logical name of axis K; None where it is never split.
    """

    arrays: dict[str, jax.Array]
    heads: str | None = struct.field(pytree_node=False, default=None)

    @property
    def length(self) -> int:
        """The slots of a row."""
        return next(iter(self.arrays.values())).shape[2]

    @abc.abstractmethod
    def extend(
        self, new: dict[str, jax.Array], positions_BT: jax.Array, length_B: jax.Array | None = None
    ) -> tuple[Self, View]:
        """Takes new tokens.

        Args:
          new: what is kept of them, by name, each (B, T, K, H).
          positions_BT: where they stand in their rows: each row's follow one another and what was read before.
          length_B: the tokens of each row's text; those at later positions are padding. None for no padding.

        Returns:
          The cache with them, and all that their queries may see, themselves included.
        """

    def placed(self, layout: Layout) -> Self:
        """The cache laid over the mesh."""
        axes = ("batch", self.heads, "key_sequence", None if self.heads is None else "head_dim")
        return dataclasses.replace(self, arrays={name: layout.constrain(x, axes) for name, x in self.arrays.items()})

    def _written(self, new: dict[str, jax.Array], slot_BT: jax.Array) -> Self:
        """The cache with new tokens at their slots; those whose slot is past the end are dropped."""
        rows_B1 = jnp.arange(slot_BT.shape[0])[:, None]
        put = lambda x, x_BTKH: x.at[rows_B1, :, slot_BT].set(x_BTKH.astype(x.dtype), mode="drop")  # noqa: E731
        return dataclasses.replace(self, arrays={name: put(x, new[name]) for name, x in self.arrays.items()})

    def _by_slot(self) -> dict[str, jax.Array]:
        """The arrays as (B, S, K, H)."""
        return {name: x.swapaxes(1, 2) for name, x in self.arrays.items()}


@struct.dataclass
class Contiguous(Slots):
    """A slot for every position; see the module."""

    def extend(
        self, new: dict[str, jax.Array], positions_BT: jax.Array, length_B: jax.Array | None = None
    ) -> tuple[Self, View]:
        """See `Slots`; tokens at positions past the last slot are dropped."""
        cache = self._written(new, positions_BT)
        return cache, View(cache._by_slot(), Coordinates(self.length))


@struct.dataclass
class Ring(Slots):
    """The slots of the last tokens; see the module."""

    def extend(
        self, new: dict[str, jax.Array], positions_BT: jax.Array, length_B: jax.Array | None = None
    ) -> tuple[Self, View]:
        """See `Slots`. Several tokens are seen beside the ring as it was: the last would take what the first sees."""
        last_B1 = positions_BT[:, -1:] if length_B is None else jnp.minimum(positions_BT[:, -1:], length_B[:, None] - 1)
        kept_BT = (positions_BT <= last_B1) & (positions_BT > last_B1 - self.length)
        cache = self._written(new, jnp.where(kept_BT, positions_BT % self.length, self.length))
        if positions_BT.shape[1] == 1:
            index_BS = _held(last_B1, self.length)
            return cache, View(cache._by_slot(), Coordinates(self.length, index=index_BS))
        before_B1 = jnp.minimum(positions_BT[:, :1] - 1, last_B1)
        index_BS = jnp.concatenate([_held(before_B1, self.length), positions_BT], axis=1)
        join = lambda x, x_BTKH: jnp.concatenate([x, x_BTKH.astype(x.dtype)], axis=1)  # noqa: E731
        arrays = {name: join(x, new[name]) for name, x in self._by_slot().items()}
        return cache, View(arrays, Coordinates(index_BS.shape[1], index=index_BS))


def _held(last_B1: jax.Array, slots: int) -> jax.Array:
    """The position of the token in each slot of a ring (B, slots), after the token at `last_B1` was read."""
    position_BS = last_B1 - (last_B1 - jnp.arange(slots)) % slots
    return jnp.where(position_BS < 0, NOWHERE, position_BS)


def empty(
    batch: int, length: int, dtype: str, reach: int | None, heads: str | None = None, **sizes: tuple[int, int]
) -> Contiguous | Ring:
    """A cache of zeros for `batch` rows of at most `length` tokens.

    Args:
      batch, length: its size.
      dtype: of its arrays.
      reach: how many of the last tokens a query sees at most; None for all of them.
      heads: see `Slots`.
      sizes: heads and width (K, H) of each array, by its name.
    """
    slots, layout = (length, Contiguous) if reach is None or reach >= length else (reach, Ring)
    arrays = {name: jnp.zeros((batch, k, slots, h), dtype) for name, (k, h) in sizes.items()}
    return layout(arrays, heads)
