"""The endless sequence of rows: sources mixed by weight, and every epoch of a source is a new seeded permutation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any


def row_order(num_rows: Sequence[int], weights: Sequence[float], seed: int, split: str) -> Any:
    """A random-access sequence of (source, epoch, row of its index); source k has `num_rows[k]` rows per epoch.

    Weights count in whole hundredths of the smallest weight.
    """
    import grain

    class Rows(grain.MapDataset):
        """Rows of one source; an index past the end is a row of a later epoch."""

        def __init__(self, source: int, length: int) -> None:
            super().__init__()
            self._source, self._length = source, length

        def __len__(self) -> int:
            return self._length

        def __getitem__(self, index: Any) -> Any:
            return (self._source, *divmod(index, self._length))

    orders = [Rows(k, length).shuffle(seed=stable_hash(seed, split, k)).repeat() for k, length in enumerate(num_rows)]
    if len(orders) == 1:
        return orders[0]
    return grain.MapDataset.mix(orders, weights)


def stable_hash(*parts: Any) -> int:
    """A 32-bit number that is the same on every machine, in every session."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big")
