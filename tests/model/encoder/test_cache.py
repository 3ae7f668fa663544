"""The cache of a source: its slots, its padding, its layout."""

import jax.numpy as jnp
import numpy as np

from model.attention.cache import make_cache
from model.attention.paged_cache import PagedCache
from model.encoder.cache import DecoderLayerCache, PagedSourceCache, empty_source_cache
from model.encoder.source import PADDING


def test_a_shorter_source_leaves_slots_that_nothing_sees():
    k = jnp.arange(12.0).reshape(2, 3, 2, 1)
    cache = empty_source_cache(2, 5, 2, 1, "bfloat16").filled(k, -k, jnp.array([[0, 0, 0], [0, PADDING, PADDING]]))
    assert cache.k_BKSH.shape == cache.v_BKSH.shape == (2, 2, 5, 1)
    assert cache.k_BKSH.dtype == jnp.bfloat16
    np.testing.assert_array_equal(cache.k_BKSH[0, 1, :, 0], [1, 3, 5, 0, 0])
    np.testing.assert_array_equal(cache.v_BKSH[1, 0, :, 0], [-6, -8, -10, 0, 0])
    np.testing.assert_array_equal(cache.segment_ids_BS, [[0, 0, 0, -1, -1], [0, -1, -1, -1, -1]])


def test_without_documents_all_tokens_are_of_one():
    cache = empty_source_cache(1, 3, 1, 1, "float32").filled(*[jnp.ones((1, 2, 1, 1))] * 2, None)
    np.testing.assert_array_equal(cache.segment_ids_BS, [[0, 0, PADDING]])


def test_it_is_laid_over_the_mesh(recording):
    source = empty_source_cache(2, 5, 2, 3, "float32")
    axes = [("batch", "kv_heads", "key_sequence", "head_dim")] * 2 + [("batch", None)]
    for mixer, more in ((None, []), (make_cache(2, 4, "float32", None, "kv_heads", k=(2, 3)), [axes[0]])):
        recording.placed.clear()
        DecoderLayerCache(mixer, source).sharded(recording)
        assert [placed for placed, _ in recording.placed] == more + axes


def test_sources_in_pages_lie_in_those_of_their_rows():
    pages = PagedCache({name: jnp.zeros((4, 1, 2, 1)) for name in "kv"}, "kv_heads", jnp.array([[2, 3], [0, 1]]))
    k = jnp.arange(1.0, 7).reshape(2, 3, 1, 1)
    kept = PagedSourceCache(pages, jnp.array([3, 1]), "float32").filled(k, -k, None).kept()
    np.testing.assert_array_equal(kept.k_BSKH.pages[:, 0, :, 0], [[4, 0], [0, 0], [1, 2], [3, 0]])
    np.testing.assert_array_equal(kept.v_BSKH.block(0, 2)[:, 0, :, 0], [[-1, -2, -3, 0], [-4, 0, 0, 0]])
    np.testing.assert_array_equal(kept.segment_ids_BS, [[0, 0, 0, -1], [0, -1, -1, -1]])
