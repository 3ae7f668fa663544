import numpy as np
import pytest

from model.attention.patterns import BlockSparse, Chunked, Everything, Fixed, SlidingWindow, Strided
from model.kernels.visibility import Coordinates, causal


def picture(mask_BTS):
    """Returns a mask as text, one string per query: x for a key that it sees."""
    return [["".join("x" if seen else "." for seen in row) for row in one] for one in np.asarray(mask_BTS)]


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
    seen = pattern.visible(np.arange(40)[:, None], np.arange(40))
    back = np.arange(40)[:, None] - np.arange(40)
    assert pattern.reach() == expected
    farthest = back[np.ones_like(back, bool) if seen is None else np.asarray(seen)].max() + 1
    assert farthest == expected if expected else farthest > 37


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
    visibility = causal(Coordinates(8)).with_pattern(pattern)
    assert picture(visibility.mask()) == [PICTURES[pattern]]
    # A query decoded alone sees what it sees in the whole.
    alone = causal(Coordinates(1, index=np.array([[7]])), Coordinates(8)).with_pattern(pattern)
    assert picture(alone.mask()) == [[PICTURES[pattern][-1]]]


@pytest.mark.parametrize("length", [1, 7, 8, 40])
@pytest.mark.parametrize("pattern", [Everything(), *PICTURES, BlockSparse(block=3, first=4, last=1)], ids=str)
def test_pairs_are_those_of_the_mask(pattern, length):
    assert pattern.num_visible_pairs(length) == causal(Coordinates(length)).with_pattern(pattern).mask().sum()


@pytest.mark.parametrize(
    "pattern",
    [SlidingWindow(size=5), SlidingWindow(size=5, first=2), Chunked(size=6), Strided(stride=3), Fixed(stride=3)],
    ids=repr,
)
def test_kernels_are_told_the_truth_about_patterns(pattern):
    """Masks that depend on distance alone do not change when all positions grow; groups are the mask."""
    later, earlier = np.arange(40)[:, None], np.arange(40)
    seen, moved = pattern.visible(later, earlier), pattern.visible(later + 7, earlier + 7)
    lower = later >= earlier
    assert (seen == moved)[lower].all() == pattern.depends_on_distance_alone
    group = pattern.group(np.arange(40))
    assert (group is not None) == pattern.has_groups
    assert group is None or ((group[:, None] == group) == seen).all()
