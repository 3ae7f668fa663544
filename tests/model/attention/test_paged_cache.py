"""A cache of pages holds what a contiguous one holds; padding is not written."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from model import kernels
from model.attention.cache import make_cache
from model.attention.paged_cache import PagedCache
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, Visibility
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


def test_a_page_that_is_begun_is_cleared_and_others_are_left():
    pages = {"k": jnp.full((5, 1, PAGE, WIDTH), jnp.nan)}
    cache = PagedCache(pages, None, jnp.array([[3, 1], [2, 4]], jnp.int32), clears=True)

    def written(first, count, lengths):
        nonlocal cache
        new = {"k": jnp.full((2, count, 1, WIDTH), first + 1.0)}
        positions = jnp.broadcast_to(first + jnp.arange(count), (2, count))
        cache, view = cache.extend(new, positions, jnp.array(lengths))
        assert view.arrays["k"].form.cleared
        return np.asarray(cache.arrays["k"])[:, 0, :, 0].tolist()

    nan = [str(np.nan)] * PAGE
    shown = lambda found: [nan if np.isnan(page).all() else page for page in found]  # noqa: E731
    assert shown(written(0, 3, (3, 2))) == [nan, nan, [1, 1, 0, 0], [1, 1, 1, 0], nan]
    # The rest of a page is not cleared again, and a page that only padding begins is not cleared.
    assert shown(written(3, 2, (5, 4))) == [nan, [4, 0, 0, 0], [1, 1, 0, 4], [1, 1, 1, 4], nan]


def rounded(x, dtype):
    """Numbers in a smaller format and back, by a scale for the last axis, in NumPy."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    largest = 127 if dtype == "int8" else 448
    scale = np.abs(x).max(axis=-1, keepdims=True) / np.float32(largest)
    scaled = x / np.where(scale == 0, 1, scale)
    return (np.round(scaled) if dtype == "int8" else scaled).astype(kind).astype(np.float32) * scale


@pytest.mark.parametrize(("dtype", "error"), [("int8", 0.5 / 127), ("float8_e4m3fn", 1 / 16)])
def test_attention_to_a_smaller_format_is_that_to_rounded_keys_and_values(dtype, error):
    rng = np.random.default_rng(1)
    q, k, v = (rng.normal(size=(2, 6, heads, 4)).astype(np.float32) for heads in (4, 2, 2))
    k[0, 2] = 0
    pages = {
        name: jnp.zeros((6, 2, PAGE, width), kind)
        for name, width, kind in [
            ("k", 4, dtype),
            ("v", 4, dtype),
            ("k_scale", 1, "float32"),
            ("v_scale", 1, "float32"),
        ]
    }
    cache = PagedCache(pages, "kv_heads", jnp.array([[5, 0], [2, 4]], jnp.int32))
    positions = np.tile(np.arange(6, dtype=np.int32), (2, 1))
    cache, view = cache.extend({"k": k, "v": v}, positions, jnp.array([6, 6]))
    assert cache.arrays["k"].dtype == dtype
    assert view.arrays["k"].dtype == np.float32
    held = {name: np.asarray(view.arrays[name].block(0, 2)).swapaxes(1, 2)[:, :6] for name in "kv"}
    for name, x in (("k", k), ("v", v)):
        np.testing.assert_allclose(held[name], rounded(x, dtype), rtol=1e-6)
        largest = np.abs(x).max(axis=-1, keepdims=True)
        assert 0 < np.abs(held[name] - x).max() <= 1.01 * error * largest.max()
    seen = Visibility(Coordinates(6, index=positions), Coordinates(6))
    scoring = Scoring(0.5, None, "float32")
    found = kernels.attend(q, view.arrays["k"], view.arrays["v"], seen.with_keys(view.keys), scoring)
    causal = np.tril(np.ones((6, 6), bool))
    k, v = (np.repeat(held[name], 2, axis=2) for name in "kv")
    scores = np.where(causal, 0.5 * np.einsum("btnh,bsnh->bnts", q, k), -np.inf)
    expected = np.einsum("bnts,bsnh->btnh", np.asarray(jax.nn.softmax(scores)), v)
    np.testing.assert_allclose(found, expected, atol=1e-5)
