"""Keys in pages: the shape that kernels see, and the keys of a block."""

import numpy as np

from model.kernels.paged_array import PagedArray, PageForm


def test_a_block_has_the_pages_of_each_row_in_order():
    pages = np.arange(5 * 2 * 3 * 1, dtype=np.float32).reshape(5, 2, 3, 1)  # five pages, two heads, three keys
    paged = PagedArray(pages, np.array([[4, 0, 2, 1], [1, 1, 3, 0]], np.int32))
    assert paged.shape == (2, 12, 2, 1)
    assert paged.dtype == np.float32
    block_BKSH = np.asarray(paged.block(1, 2))
    expected = [np.concatenate([pages[a], pages[b]], axis=1) for a, b in ((0, 2), (1, 3))]
    np.testing.assert_array_equal(block_BKSH, expected)


def test_pages_by_head_are_those_of_the_pool():
    pages = np.arange(5 * 2 * 3 * 4, dtype=np.float32).reshape(5, 2, 3, 4)
    paged = PagedArray(pages, np.array([[4, 0, 2], [1, 1, 3]], np.int32))
    by_head, table_BKJ = paged.by_head()
    assert np.shares_memory(by_head, pages)
    for row, head in np.ndindex(2, 2):
        np.testing.assert_array_equal(by_head[0, table_BKJ[row, head]], pages[paged.table_BJ[row], head])
    assert paged.form == PageForm(3, 3, "float32", has_scales=False, cleared=False)
