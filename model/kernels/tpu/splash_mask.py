"""The mask of a Pallas kernel on TPUs, known while tracing: made block by block, and inside the kernel.

Import this file only where the kernel runs: it imports Pallas.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask import Mask

from model.attention.patterns import Pattern


@dataclasses.dataclass(frozen=True)
class StaticMask(Mask):
    """The pairs of a query and a key that are visible by their indices alone.

    Attributes:
      size: the numbers of queries and keys.
      starts: the indices of the first query and the first key.
      causal: whether a query sees no later key.
      patterns: each of them must allow a pair. Those that divide positions are left out inside the kernel, where the
        caller sees to them: JAX lowers a division only for the TPU of this machine, and there may be none.
    """

    size: tuple[int, int]
    starts: tuple[int, int] = (0, 0)
    causal: bool = True
    patterns: tuple[Pattern, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The numbers of queries and keys."""
        return self.size

    @property
    def q_sequence(self) -> np.ndarray:
        """The numbers of the queries, for the kernel, which hands them to `mask_function`."""
        return np.arange(self.size[0], dtype=np.int32)

    def mask_function(self, query: Any, key: Any) -> Any:
        """Returns which pairs are visible, for the kernel; both arguments count from 0, and their shapes broadcast."""
        return self._visible(query, key, tuple(pattern for pattern in self.patterns if not pattern.divides))

    def _visible(self, query: Any, key: Any, patterns: tuple[Pattern, ...]) -> Any:
        array = np if isinstance(query, np.ndarray) else jnp
        query, key = query + self.starts[0], key + self.starts[1]
        later, earlier = (query, key) if self.causal else (array.maximum(query, key), array.minimum(query, key))
        visible = query >= key if self.causal else query >= 0
        for pattern in patterns:
            allowed = pattern.visible(later, earlier)
            visible = visible if allowed is None else visible & allowed
        return array.broadcast_to(visible, np.broadcast_shapes(query.shape, key.shape))

    def __getitem__(self, block: tuple[slice, slice]) -> np.ndarray:
        """Returns the mask of a block; one of shape (1, 1) stands for a block whose pairs are all the same.

        The preparation of a kernel asks every block only whether any or all of its pairs are visible. To compute all
        pairs of a long sequence would take minutes.
        """
        (query, last_query), (key, last_key) = (
            (s.start or 0, s.stop or n) for s, n in zip(block, self.size, strict=True)
        )
        shift = self.starts[0] - self.starts[1]
        nearest, farthest = query + shift - (last_key - 1), last_query - 1 + shift - key  # distances within the block
        reaches = [reach for pattern in self.patterns if (reach := pattern.reach()) is not None]
        if (self.causal and farthest < 0) or any(nearest >= reach for reach in reaches):
            return np.zeros((1, 1), bool)
        if not self.patterns and (not self.causal or nearest >= 0):
            return np.ones((1, 1), bool)
        queries, keys = np.arange(query, last_query, dtype=np.int32), np.arange(key, last_key, dtype=np.int32)
        return np.asarray(self._visible(queries[:, None], keys[None, :], self.patterns))
