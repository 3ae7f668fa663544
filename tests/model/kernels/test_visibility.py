"""Which keys a query sees: literal matrices, blocks of any slices, and the answers that kernels get."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.patterns import BlockSparse, Chunked, Everything, Fixed, SlidingWindow, Strided
from model.kernels.visibility import Coordinates, bidirectional, causal, renumber_segments
from tests.tiers import representatives


def picture(mask_BTS):
    """A mask as text, one string a query: x where it sees a key."""
    return [["".join("x" if seen else "." for seen in row) for row in one] for one in np.asarray(mask_BTS)]


def test_causal():
    assert picture(causal(Coordinates(5)).mask()) == [
        [
            "x....",
            "xx...",
            "xxx..",
            "xxxx.",
            "xxxxx",
        ]
    ]


def test_causal_with_rows_at_different_places_in_a_cache():
    query_BT = np.array([[0, 1], [3, 4]])
    assert picture(causal(Coordinates(2, index=query_BT), Coordinates(6)).mask()) == [
        [
            "x.....",
            "xx....",
        ],
        [
            "xxxx..",
            "xxxxx.",
        ],
    ]


def test_queries_and_keys_that_begin_later():
    """Queries 3 and 4 of a row, of which keys 1 to 5 are here."""
    assert picture(causal(Coordinates(2, 3), Coordinates(5, 1)).mask()) == [["xxx..", "xxxx."]]


def test_documents_are_numbered_in_every_row():
    segment_ids = np.array([[1, 1, 2, 2, 0], [4, 7, 7, 7, 8]])
    np.testing.assert_array_equal(renumber_segments(segment_ids), [[0, 0, 1, 1, 2], [0, 1, 1, 1, 2]])
    assert renumber_segments(None) is None


def test_documents_do_not_see_each_other():
    segment_ids = np.array([[1, 1, 2, 2, 2, 0], [1, 2, 2, 3, 0, 0]])
    assert picture(bidirectional(Coordinates(6, segment_ids=segment_ids)).mask()) == [
        [
            "xx....",
            "xx....",
            "..xxx.",
            "..xxx.",
            "..xxx.",
            ".....x",
        ],
        [
            "x.....",
            ".xx...",
            ".xx...",
            "...x..",
            "....xx",
            "....xx",
        ],
    ]


def test_packed_documents_causally():
    segment_ids = np.array([[1, 1, 2, 2, 2, 0]])
    assert picture(causal(Coordinates(6, segment_ids=segment_ids)).mask()) == [
        [
            "x.....",
            "xx....",
            "..x...",
            "..xx..",
            "..xxx.",
            ".....x",
        ]
    ]


def test_everything_is_seen_without_an_array():
    visibility = bidirectional(Coordinates(2), Coordinates(3)).with_pattern(Everything())
    assert visibility.mask() is None
    assert picture(visibility.block(slice(None), slice(1, None))) == [["xx", "xx"]]


def test_a_prefix_is_seen_from_both_sides():
    assert picture(causal(Coordinates(5)).with_prefix(3).mask()) == [["xxx..", "xxx..", "xxx..", "xxxx.", "xxxxx"]]
    assert picture(causal(Coordinates(3)).with_prefix(np.array([0, 2])).mask()) == [
        ["x..", "xx.", "xxx"],
        ["xx.", "xx.", "xxx"],
    ]


def test_every_document_may_have_a_prefix_of_its_own():
    segment_ids, position = np.array([[1, 1, 1, 2, 2, 2]]), np.array([[0, 1, 2, 0, 1, 2]])
    tokens = Coordinates(6, position=position, segment_ids=segment_ids)
    assert picture(causal(tokens).with_prefix(np.array([[2, 2, 2, 3, 3, 3]])).mask()) == [
        ["xx....", "xx....", "xxx...", "...xxx", "...xxx", "...xxx"],
    ]


BOTH_SIDES = {
    SlidingWindow(size=2): ["xx....", "xxx...", ".xxx..", "..xxx.", "...xxx", "....xx"],
    SlidingWindow(size=1, first=1): ["xxxxxx", "xx....", "x.x...", "x..x..", "x...x.", "x....x"],
    Chunked(size=2): ["xx....", "xx....", "..xx..", "..xx..", "....xx", "....xx"],
    BlockSparse(block=2, first=0, last=2): ["xxxx..", "xxxx..", "xxxxxx", "xxxxxx", "..xxxx", "..xxxx"],
}


@pytest.mark.parametrize("pattern", BOTH_SIDES, ids=str)
def test_a_pattern_holds_in_both_directions_where_later_tokens_are_seen(pattern):
    assert picture(bidirectional(Coordinates(6)).with_pattern(pattern).mask()) == [BOTH_SIDES[pattern]]


# ---------------------------------------------------------------------------------- compositions, and blocks of them

T, S = 11, 13
DRAW = np.random.default_rng(0)
SEGMENTS = np.sort(DRAW.integers(0, 4, (2, S)), axis=1)
PLACES = np.stack([np.concatenate([np.arange(n) for n in np.bincount(row) if n]) for row in SEGMENTS])
EXTRA_MASK = DRAW.random((2, T, S)) < 0.7
FROM = {  # queries, keys
    "a row": (Coordinates(T), Coordinates(S)),
    "later queries": (Coordinates(T, 2), Coordinates(S)),
    "later keys": (Coordinates(T, 9), Coordinates(S, 4)),
    "a cache": (Coordinates(T, index=np.array([[0], [2]]) + np.arange(T)), Coordinates(S)),
    "documents": (
        Coordinates(T, position=PLACES[:, :T], segment_ids=SEGMENTS[:, :T]),
        Coordinates(S, position=PLACES, segment_ids=SEGMENTS),
    ),
}
PATTERNS = [
    SlidingWindow(size=3),
    SlidingWindow(size=2, first=2),
    Chunked(size=4),
    Strided(stride=3),
    Fixed(stride=4, summaries=2),
    BlockSparse(block=2, first=1, last=2),
    BlockSparse(block=2, first=0, last=1),
]


def compositions():
    """Named visibilities of T queries and S keys."""
    for where, (queries, keys) in FROM.items():
        for order in (causal, bidirectional):
            base = order(queries, keys)
            name = f"{where}, {order.__name__}"
            yield name, base
            yield f"{name}, extra mask", base.with_mask(EXTRA_MASK)
            for pattern in PATTERNS:
                yield f"{name}, {pattern}", base.with_pattern(pattern)
            yield f"{name}, two patterns", base.with_pattern(PATTERNS[1]).with_pattern(PATTERNS[2])
        prefixed = causal(queries, keys).with_prefix(np.array([3, 6]))
        yield f"{where}, prefix", prefixed
        yield f"{where}, prefix, window", prefixed.with_pattern(PATTERNS[0])
        yield f"{where}, prefixes", causal(queries, keys).with_prefix(DRAW.integers(0, 6, (2, S)))


ALL = dict(compositions())


def sees(visibility, row, t, s):
    """Whether query t of a row sees key s, in words of one pair."""

    def of(array, default):
        return default if array is None else int(np.broadcast_to(array, (2, array.shape[1]))[row][at])

    at, q = t, visibility.queries
    q_index = of(q.index, q.start + t)
    q_position, q_segment = of(q.position, q_index), of(q.segment_ids, 0)
    at, k = s, visibility.keys
    k_index = of(k.index, k.start + s)
    k_position, k_segment = of(k.position, k_index), of(k.segment_ids, 0)
    if q_segment != k_segment or (visibility.extra_mask is not None and not visibility.extra_mask[row, t, s]):
        return False
    prefix = None if visibility.prefix is None else np.broadcast_to(visibility.prefix, (2, S))[row, s]
    if visibility.causal and q_index < k_index and (prefix is None or k_position >= prefix):
        return False
    ordered = (
        (q_position, k_position)
        if visibility.causal and prefix is None
        else sorted((q_position, k_position), reverse=True)
    )
    return all(pattern.visible(*ordered) is None or pattern.visible(*ordered) for pattern in visibility.patterns)


def whole(visibility):
    return np.broadcast_to(visibility.block(slice(None), slice(None)), (2, T, S))


@pytest.mark.parametrize("name", ALL)
def test_a_pair_is_seen_if_everything_that_is_said_lets_it(name):
    expected = [[[sees(ALL[name], row, t, s) for s in range(S)] for t in range(T)] for row in range(2)]
    np.testing.assert_array_equal(whole(ALL[name]), expected)


SLICES = [
    (slice(0, 4), slice(0, 5)),
    (slice(3, 8), slice(2, 13)),
    (slice(10, 11), slice(12, 13)),
    (slice(2, 2), slice(0, 3)),
]


@pytest.mark.parametrize("name", representatives(ALL, *list(ALL)[::3]))
def test_a_block_is_that_of_the_whole(name):
    visibility, expected = ALL[name], whole(ALL[name])
    for queries, keys in SLICES:
        block = visibility.block(queries, keys)
        assert block.shape[1:] == expected[0, queries, keys].shape
        np.testing.assert_array_equal(np.broadcast_to(block, (2, *block.shape[1:])), expected[:, queries, keys])


@jax.jit
def traced(visibility, query, key):
    """Two queries and three keys from numbers on that are not known before."""
    return visibility.sliced(query, 2, key, 3).mask(), visibility.key_span(query, query + 2)


@pytest.mark.parametrize(
    "name", [name for name in ALL if "two patterns" in name or "prefix" in name or "extra mask" in name]
)
def test_a_block_may_begin_where_only_the_running_program_knows(name):
    """Tiles go through a sequence in a loop; queries are padded to fill the last one."""
    visibility, expected = ALL[name], whole(ALL[name])
    for queries, keys in [(0, 0), (9, 10), (4, 7)]:
        mask, span = traced(visibility.padded(T + 3, S + 2), queries, keys)
        block = expected[:, queries : queries + 2, keys : keys + 3]
        np.testing.assert_array_equal(np.broadcast_to(mask, block.shape), block)
        low, high = visibility.padded(T + 3, S + 2).key_span(queries, queries + 2)
        assert (int(span[0]), int(span[1])) == (low, high)


@pytest.mark.parametrize("name", ALL)
def test_no_query_sees_a_key_outside_its_span(name):
    seen = whole(ALL[name]).any(0)
    for start, stop in itertools.combinations(range(T + 1), 2):
        low, high = ALL[name].key_span(start, stop)
        assert 0 <= low <= S
        assert 0 <= high <= S
        assert not seen[start:stop, :low].any()
        assert not seen[start:stop, high:].any()
        assert ALL[name].skips_keys or (low, high) == (0, S)


@pytest.mark.parametrize(
    ("visibility", "expected"),
    [
        (causal(Coordinates(9)), (0, 6)),
        (causal(Coordinates(9)).with_pattern(SlidingWindow(size=3)), (1, 6)),
        (causal(Coordinates(9, 4), Coordinates(13)).with_pattern(SlidingWindow(size=3)), (5, 10)),
        (causal(Coordinates(9)).with_pattern(Chunked(size=2)).with_pattern(SlidingWindow(size=3)), (2, 6)),
        (causal(Coordinates(9), monotonic_positions=False).with_pattern(SlidingWindow(size=3)), (0, 6)),
        (bidirectional(Coordinates(9)).with_pattern(SlidingWindow(size=3)), (1, 8)),
        (bidirectional(Coordinates(9)), (0, 9)),
        (causal(Coordinates(9)).with_prefix(2), (0, 9)),
        (causal(Coordinates(9, index=np.arange(9)[None])), (0, 9)),
    ],
)
def test_the_keys_that_queries_3_to_5_may_see(visibility, expected):
    assert visibility.key_span(3, 6) == expected
    assert visibility.skips_keys == (expected != (0, 9))


def test_answers():
    row, window, first = Coordinates(9), SlidingWindow(size=3), SlidingWindow(size=3, first=1)
    assert [v.is_causal for v in (causal(row), bidirectional(row), causal(row).with_prefix(2))] == [True, False, False]
    assert [v.reach for v in (causal(row), causal(row).with_pattern(window), causal(row).with_pattern(first))] == [
        None,
        3,
        None,
    ]
    assert causal(row).with_pattern(first).with_pattern(window).reach == 3
    assert causal(row, monotonic_positions=False).with_pattern(window).reach is None


def test_a_visibility_is_a_tree_whose_structure_is_static():
    visibility = causal(Coordinates(9, 4), Coordinates(13)).with_pattern(SlidingWindow(size=3))
    leaves, structure = jax.tree.flatten(visibility)
    assert leaves == []
    assert structure != jax.tree.structure(visibility.with_pattern(Chunked(size=2)))
    assert len(jax.tree.leaves(visibility.with_mask(EXTRA_MASK).with_prefix(3))) == 2


def test_a_block_is_made_alone():
    """No array of the whole is in the program that makes a block."""
    segment_ids = jnp.ones((1, 1000), jnp.int32)
    visibility = causal(Coordinates(1000, segment_ids=segment_ids)).with_pattern(Strided(stride=7))
    program = jax.make_jaxpr(lambda: visibility.block(slice(0, 30), slice(10, 50)))()
    assert max(x.aval.size for equation in program.eqns for x in equation.outvars) == 30 * 40
