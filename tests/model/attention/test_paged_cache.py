"""A cache of pages holds what a contiguous one holds; padding is not written."""

import jax.numpy as jnp
import numpy as np

from model.attention.cache import make_cache
from model.attention.paged_cache import PagedCache
from model.layout import ONE_DEVICE

PAGE, WIDTH = 4, 3


def test_it_holds_what_a_contiguous_cache_holds():
    rng = np.random.default_rng(0)
    table = np.array([[5, 0, 3], [2, 4, 1]], np.int32)
    pages = make_cache(6, PAGE, "float32", None, "kv_heads", k=(2, WIDTH)).arrays
    paged = PagedCache(pages, "kv_heads", jnp.asarray(table))
    contiguous = make_cache(2, 3 * PAGE, "float32", None, k=(2, WIDTH))
    for first, count, lengths in [(0, 5, (5, 4)), (4, 3, (7, 7)), (7, 1, (8, 8))]:
        new = {"k": rng.normal(size=(2, count, 2, WIDTH)).astype(np.float32)}
        positions = np.tile(np.arange(first, first + count, dtype=np.int32), (2, 1))
        paged, view = paged.extend(new, positions, jnp.array(lengths))
        contiguous, expected = contiguous.extend(new, positions)
    assert view.keys.count == expected.keys.count == 3 * PAGE
    block = np.asarray(view.arrays["k"].block(0, 3)).swapaxes(1, 2)
    np.testing.assert_array_equal(block[:, :8], np.asarray(expected.arrays["k"])[:, :8])
    assert not block[:, 8:].any()
    assert paged.sharded(ONE_DEVICE).arrays["k"].shape == (6, 2, PAGE, WIDTH)


def test_padding_is_not_written():
    pages = make_cache(2, PAGE, "float32", None, k=(1, WIDTH)).arrays
    cache = PagedCache(pages, None, jnp.array([[1, 0], [0, 0]], jnp.int32))
    ones = {"k": jnp.ones((2, 3, 1, WIDTH))}
    positions = jnp.array([[3, 4, 5], [0, 1, 2]], jnp.int32)
    cache, _ = cache.extend(ones, positions, jnp.array([5, 0]))
    written = np.asarray(cache.arrays["k"])[:, 0, :, 0]
    np.testing.assert_array_equal(written, [[1, 0, 0, 0], [0, 0, 0, 1]])
