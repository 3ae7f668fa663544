"""Attention to pages against the plain kernel, and to the bit: no other row, no later block, no stale page matters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.patterns import Chunked, SlidingWindow
from model.kernels import attend, new_request
from model.kernels.paged_array import PagedArray
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, bidirectional, causal
from model.kernels.xla.pages import Pages
from model.kernels.xla.plain import Plain
from model.positions.alibi import LinearBias
from tests.tiers import representatives

PAGE, COUNT = 4, 10  # keys of a page, pages of a row: 40 keys in two blocks of 16 and one that is not full
KERNEL = Pages(keys=16)
POSITIONS = np.array([[17, 18, 19], [3, 4, 5]], np.int32)
CASES = {
    "causal": {},
    "multi-query": dict(kv_heads=1),
    "one head for each": dict(kv_heads=4),
    "window": dict(pattern=SlidingWindow(size=3)),
    "first keys": dict(pattern=SlidingWindow(size=3, first=2)),
    "chunks": dict(pattern=Chunked(size=6)),
    "sinks": dict(sinks=True),
    "soft-cap, bias": dict(softcap=2.0, bias=True),
}


def arrays(kv_heads, seed=0):
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(2, 3, 4, 8)).astype(np.float32)
    pages = rng.normal(size=(2, 2 * COUNT, kv_heads, PAGE, 8)).astype(np.float32)
    return q, pages[0], pages[1], rng.permutation(2 * COUNT).reshape(2, COUNT).astype(np.int32)


def run(
    q,
    k,
    v,
    table,
    positions,
    kv_heads=2,
    pattern=None,
    softcap=None,
    sinks=False,
    bias=False,
    kernel=KERNEL,
    length_B=None,
):
    keys = Coordinates(table.shape[1] * PAGE)
    visibility = causal(Coordinates(q.shape[1], index=jnp.asarray(positions)), keys)
    visibility = visibility if pattern is None else visibility.with_pattern(pattern)
    scoring, bias = Scoring(0.4, softcap), LinearBias((0.5, 0.25, 0.125, 0.0625)) if bias else None
    sink = jnp.array([0.3, -1.0, 0.0, 2.0]) if sinks else None
    k, v = (PagedArray(jnp.asarray(x), jnp.asarray(table), length_B=length_B) for x in (k, v))
    if isinstance(kernel, Plain):
        k, v = (x.block(0, table.shape[1]).swapaxes(1, 2) for x in (k, v))
    request = new_request(q, k, v, visibility, scoring, bias=bias, has_sinks=sinks)
    return kernel.attend(request, jnp.asarray(q), k, v, sink, None)


@pytest.mark.parametrize("name", representatives(CASES, "causal", "first keys", "soft-cap, bias"))
def test_it_is_the_plain_kernel(name):
    options = CASES[name]
    inputs = arrays(options.get("kv_heads", 2))
    expected = run(*inputs, POSITIONS, **options, kernel=Plain())
    np.testing.assert_allclose(run(*inputs, POSITIONS, **options), expected, rtol=2e-5, atol=2e-6)


def test_a_row_is_the_same_beside_others_in_other_pages_and_after_stale_ones():
    q, k, v, table = arrays(2)
    both = np.asarray(run(q, k, v, table, POSITIONS))
    late = np.asarray(run(q, k, v, table, np.array([[17, 18, 19], [35, 36, 37]], np.int32)))  # two more blocks
    np.testing.assert_array_equal(both[0], late[0])
    moved = np.argsort(np.random.default_rng(1).permutation(2 * COUNT))
    k2, v2 = np.empty_like(k), np.empty_like(v)
    k2[moved], v2[moved] = k, v
    stale = moved[table[0, 6:]]  # pages that no query of this row sees
    k2[stale], v2[stale] = np.nan, np.inf
    np.testing.assert_array_equal(np.asarray(run(q, k2, v2, moved[table].astype(np.int32), POSITIONS))[0], both[0])


def test_padding_after_a_row_does_not_read_what_was_not_written():
    """The last two queries of the second row are padding: they see keys after its 4 tokens."""
    q, k, v, table = arrays(2)
    lengths = jnp.array([20, 4])
    clean = np.asarray(run(q, k, v, table, POSITIONS, length_B=lengths))
    k[table[1, 1:]], v[table[1, 1:]] = np.nan, np.inf
    stale = np.asarray(run(q, k, v, table, POSITIONS, length_B=lengths))
    np.testing.assert_array_equal(stale[0], clean[0])
    np.testing.assert_array_equal(stale[1, 0], clean[1, 0])


def test_a_query_is_the_same_alone_and_in_a_chunk():
    q, k, v, table = arrays(4)
    chunk = np.asarray(jax.jit(run, static_argnames="kv_heads")(q, k, v, table, POSITIONS, kv_heads=4))
    for t in range(3):
        alone = jax.jit(run, static_argnames="kv_heads")(
            q[:, t : t + 1], k, v, table, POSITIONS[:, t : t + 1], kv_heads=4
        )
        np.testing.assert_array_equal(np.asarray(alone)[:, 0], chunk[:, t])


def test_attend_hands_pages_to_this_kernel():
    q, k, v, table = arrays(2)
    paged = [PagedArray(jnp.asarray(x), jnp.asarray(table)) for x in (k, v)]
    visibility = causal(Coordinates(3, index=jnp.asarray(POSITIONS)), Coordinates(COUNT * PAGE))
    y = attend(jnp.asarray(q), *paged, visibility, Scoring(0.4))
    np.testing.assert_allclose(y, run(q, k, v, table, POSITIONS), rtol=1e-5, atol=1e-6)


def test_it_drops_no_weights():
    q, k, v, table = arrays(2)
    paged = [PagedArray(jnp.asarray(x), jnp.asarray(table)) for x in (k, v)]
    visibility = causal(Coordinates(3, index=jnp.asarray(POSITIONS)), Coordinates(COUNT * PAGE))
    request = new_request(q, *paged, visibility, Scoring(0.4))
    assert KERNEL.supports(request) is None
    assert "drops no weights" in KERNEL.supports(dataclasses.replace(request, dropout=0.1))


def test_rows_in_groups_are_those_of_all_rows():
    """Each group takes as many blocks as its own longest row."""
    rng = np.random.default_rng(0)
    q, k, v, _ = arrays(2)
    table = np.stack([rng.permutation(2 * COUNT)[:COUNT] for _ in range(6)]).astype(np.int32)
    q = rng.normal(size=(6, 3, 4, 8)).astype(np.float32)
    positions = np.array([37, 30, 20, 9, 3, 0], np.int32)[:, None] + np.arange(3, dtype=np.int32)
    together = run(q, k, v, table, positions, kernel=Pages(keys=16, group=6))
    for group in (2, 3):
        split = run(q, k, v, table, positions, kernel=Pages(keys=16, group=group))
        np.testing.assert_allclose(split, together, rtol=1e-6, atol=1e-6)
    not_divided = run(q, k, v, table, positions, kernel=Pages(keys=16, group=4))
    np.testing.assert_array_equal(not_divided, together)


@pytest.mark.parametrize("documents", [True, False])
def test_queries_without_an_order_see_whole_documents(documents):
    """As queries of a source do: blocks after the longest are left out, and change no bit of a shorter row."""
    q, k, v, table = arrays(4)
    paged = [PagedArray(jnp.asarray(x), jnp.asarray(table)) for x in (k, v)]

    def run_lengths(*lengths):
        ids = jnp.where(jnp.arange(COUNT * PAGE) < jnp.array(lengths)[:, None], 0, -1) if documents else None
        queries = Coordinates(3, segment_ids=jnp.zeros((2, 3), jnp.int32) if documents else None)
        visibility = bidirectional(queries, Coordinates(COUNT * PAGE, segment_ids=ids))
        if not documents:
            seen = jnp.arange(COUNT * PAGE) < jnp.array(lengths)[:, None, None]
            visibility = visibility.with_mask(jnp.broadcast_to(seen, (2, 3, COUNT * PAGE)))
        y = KERNEL.attend(new_request(q, *paged, visibility, Scoring(0.4)), jnp.asarray(q), *paged, None, None)
        whole = [x.block(0, COUNT).swapaxes(1, 2) for x in paged]
        request = new_request(q, *whole, visibility, Scoring(0.4))
        expected = Plain().attend(request, jnp.asarray(q), *whole, None, None)
        np.testing.assert_allclose(y, expected, rtol=2e-5, atol=2e-6)
        return np.asarray(y)

    np.testing.assert_array_equal(run_lengths(9, 17)[0], run_lengths(9, 40)[0])
