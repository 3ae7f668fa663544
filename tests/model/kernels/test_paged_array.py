"""Keys in pages: the shape that kernels see, and the keys of a block."""

import numpy as np

from model.kernels.paged_array import PagedArray


def test_a_block_has_the_pages_of_each_row_in_order():
    pages = np.arange(5 * 2 * 3 * 1, dtype=np.float32).reshape(5, 2, 3, 1)  # five pages, two heads, three keys
    paged = PagedArray(pages, np.array([[4, 0, 2, 1], [1, 1, 3, 0]], np.int32))
    assert paged.shape == (2, 12, 2, 1)
    assert paged.dtype == np.float32
    block_BKSH = np.asarray(paged.block(1, 2))
    expected = [np.concatenate([pages[a], pages[b]], axis=1) for a, b in ((0, 2), (1, 3))]
    np.testing.assert_array_equal(block_BKSH, expected)
