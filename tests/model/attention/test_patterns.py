import numpy as np
import pytest

from model.attention import patterns as masks
from model.attention.patterns import BlockSparse, Chunked, Everything, Fixed, SlidingWindow, Strided


def picture(mask_BTS):
    """A mask as text, one string a query: x where it sees a key."""
    return [["".join("x" if seen else "." for seen in row) for row in one] for one in np.asarray(mask_BTS)]


def test_causal():
    index = np.arange(5)[None]
    assert picture(masks.causal(index, index)) == [
        [
            "x....",
            "xx...",
            "xxx..",
            "xxxx.",
            "xxxxx",
        ]
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (Everything(), None),
        (SlidingWindow(size=5), 5),
        (SlidingWindow(size=5, first=1), None),
        (Chunked(size=6), 6),
        (Strided(stride=3), None),
        (Fixed(stride=3), None),
        (BlockSparse(block=3, first=0, last=2), 6),
        (BlockSparse(block=3, first=1, last=2), None),
    ],
    ids=repr,
)
def test_reach(pattern, expected):
    """The farthest key that some query sees; without a limit it is as far as the sequence is long."""
    places = np.arange(40)[None]
    seen = masks.visible(pattern, places, places)
    back = np.arange(40)[:, None] - np.arange(40)
    assert masks.reach(pattern) == expected
    farthest = back[np.ones_like(back, bool) if seen is None else np.asarray(seen[0])].max() + 1
    assert farthest == expected if expected else farthest > 37


def test_causal_with_rows_at_different_places_in_a_cache():
    query_BT = np.array([[0, 1], [3, 4]])
    slots_BS = np.arange(6)[None]
    assert picture(masks.causal(query_BT, slots_BS)) == [
        [
            "x.....",
            "xx....",
        ],
        [
            "xxxx..",
            "xxxxx.",
        ],
    ]


def test_documents_are_numbered_in_every_row():
    segments = np.array([[1, 1, 2, 2, 0], [4, 7, 7, 7, 8]])
    np.testing.assert_array_equal(masks.documents(segments), [[0, 0, 1, 1, 2], [0, 1, 1, 1, 2]])
    assert masks.documents(None) is None


def test_same_segment():
    segments = np.array([[1, 1, 2, 2, 2, 0], [1, 2, 2, 3, 0, 0]])
    assert picture(masks.same_segment(segments, segments)) == [
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
    index, segments = np.arange(6)[None], np.array([[1, 1, 2, 2, 2, 0]])
    assert picture(masks.causal(index, index) & masks.same_segment(segments, segments)) == [
        [
            "x.....",
            "xx....",
            "..x...",
            "..xx..",
            "..xxx.",
            ".....x",
        ]
    ]


PICTURES = {
    SlidingWindow(size=3): ["x.......", "xx......", "xxx.....", ".xxx....", "..xxx...", "...xxx..", "....xxx.", ".....xxx"],
    SlidingWindow(size=2, first=2): [
        "x.......", "xx......", "xxx.....", "xxxx....", "xx.xx...", "xx..xx..", "xx...xx.", "xx....xx",
    ],
    Chunked(size=3): ["x.......", "xx......", "xxx.....", "...x....", "...xx...", "...xxx..", "......x.", "......xx"],
    Strided(stride=3): ["x.......", "xx......", "xxx.....", "xxxx....", ".xxxx...", "..xxxx..", "x..xxxx.", ".x..xxxx"],
    Fixed(stride=3): ["x.......", "xx......", "xxx.....", "..xx....", "..xxx...", "..xxxx..", "..x..xx.", "..x..xxx"],
    Fixed(stride=3, summaries=2): [
        "x.......", "xx......", "xxx.....", ".xxx....", ".xxxx...", ".xxxxx..", ".xx.xxx.", ".xx.xxxx",
    ],
    BlockSparse(block=2, first=1, last=2): [
        "x.......", "xx......", "xxx.....", "xxxx....", "xxxxx...", "xxxxxx..", "xx..xxx.", "xx..xxxx",
    ],
    BlockSparse(block=2, first=0, last=1): [
        "x.......", "xx......", "..x.....", "..xx....", "....x...", "....xx..", "......x.", "......xx",
    ],
}  # fmt: skip


@pytest.mark.parametrize("pattern", PICTURES, ids=str)
def test_patterns(pattern):
    index = np.arange(8)[None]
    mask = masks.causal(index, index) & masks.visible(pattern, index, index)
    assert picture(mask) == [PICTURES[pattern]]
    # A query decoded alone sees what it sees in the whole.
    last = np.array([[7]])
    assert picture(masks.causal(last, index) & masks.visible(pattern, last, index)) == [[PICTURES[pattern][-1]]]


@pytest.mark.parametrize("length", [1, 7, 8, 40])
@pytest.mark.parametrize("pattern", [Everything(), *PICTURES, BlockSparse(block=3, first=4, last=1)], ids=str)
def test_pairs_are_those_of_the_mask(pattern, length):
    index = np.arange(length)[None]
    mask = masks.causal(index, index)
    seen = masks.visible(pattern, index, index)
    assert masks.pairs(pattern, length) == (mask if seen is None else mask & seen).sum()
