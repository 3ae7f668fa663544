import numpy as np

from model import masks


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
