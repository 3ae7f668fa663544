"""The number of blocks of queries on a CPU."""

import pytest

from model.attention.patterns import SlidingWindow
from model.kernels import new_request
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, bidirectional, causal
from model.kernels.xla.blocks import Blocks
from model.kernels.xla.cpu import block_count
from tests.model.kernels.reference import heads


@pytest.mark.parametrize(
    ("queries", "reach", "expected"),
    [(1, None, 1), (64, None, 1), (128, None, 2), (256, None, 4), (4096, None, 4), (4096, 64, 16), (4096, 600, 6)],
)
def test_the_number_of_blocks(queries, reach, expected):
    assert block_count(queries, reach) == expected


def plan(visibility, platform):
    q, k, v = heads(1, 1, b=1, t=visibility.queries.count, s=visibility.keys.count, h=1)
    return Blocks().plan(new_request(q, k, v, visibility, Scoring(1.0), platform=platform))


def test_blocks_and_their_keys():
    assert plan(causal(Coordinates(256)), "cpu") == [
        ((0, 64), (0, 64)),
        ((64, 128), (0, 128)),
        ((128, 192), (0, 192)),
        ((192, 256), (0, 256)),
    ]
    assert plan(causal(Coordinates(130)).with_pattern(SlidingWindow(size=3)), "cpu") == [
        ((0, 65), (0, 65)),
        ((65, 130), (63, 130)),
    ]
    assert plan(bidirectional(Coordinates(256)), "cpu") == [((0, 256), (0, 256))]


def test_other_platforms_have_other_numbers():
    assert plan(causal(Coordinates(256)), "gpu") == [((0, 256), (0, 256))]
    assert len(plan(causal(Coordinates(1024)), "gpu")) == 4
    assert [queries for queries, _ in plan(causal(Coordinates(600)), "tpu")] == [(0, 200), (200, 400), (400, 600)]
