"""The static mask of the kernel for TPUs beside that of `Visibility`, block by block."""

import numpy as np
import pytest

from model.attention.patterns import BlockSparse, Chunked, Fixed, SlidingWindow, Strided
from model.kernels.tpu.splash_mask import StaticMask
from model.kernels.visibility import Coordinates, bidirectional, causal

PATTERNS = [
    SlidingWindow(size=20),
    SlidingWindow(size=9, first=3),
    Chunked(size=24),
    Strided(stride=8),
    Fixed(stride=16),
    BlockSparse(block=16),
]


@pytest.mark.parametrize("patterns", [(), *[(pattern,) for pattern in PATTERNS], (PATTERNS[0], PATTERNS[2])])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("start", [0, 32])
def test_blocks(patterns, both, start):
    queries, keys = Coordinates(64, start), Coordinates(96)
    visibility = bidirectional(queries, keys) if both else causal(queries, keys)
    for pattern in patterns:
        visibility = visibility.with_pattern(pattern)
    mask = StaticMask((64, 96), (start, 0), not both, patterns)
    want = np.ones((64, 96), bool) if (whole := visibility.mask()) is None else np.asarray(whole[0])
    shapes = set()
    for i, j in np.ndindex(4, 6):
        block = mask[slice(16 * i, 16 * i + 16), slice(16 * j, 16 * j + 16)]
        shapes.add(block.shape)
        part = want[16 * i : 16 * i + 16, 16 * j : 16 * j + 16]
        np.testing.assert_array_equal(np.broadcast_to(block, part.shape), part)
    assert (1, 1) in shapes or both or any(pattern.reach() is None for pattern in patterns)


def test_equal_masks_are_one_key():
    first, second = (StaticMask((8, 8), patterns=(Chunked(size=size),)) for size in (4, 4))
    assert first == second
    assert hash(first) == hash(second)
    assert first != StaticMask((8, 8), patterns=(Chunked(size=2),))
