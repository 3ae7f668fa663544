"""The Triton kernel of JAX, run as plain operations here: its numbers, and the requests that it refuses."""

import jax.numpy as jnp
import pytest

from model.attention.patterns import SlidingWindow
from model.kernels import new_request
from model.kernels.gpu.triton import Triton
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, bidirectional, causal
from model.positions.alibi import LinearBias
from tests.model.kernels import matrix

CASES = {case.name: case for case in matrix.CASES}
TAKEN = ("causal", "packed documents", "one key head", "width 128", "both directions", "both directions, packed")


def check(case):
    asked, kernel = matrix.problem(case), Triton(interpret=True)
    got = matrix.with_gradients(asked, kernel).lower().compile()(*matrix.arguments(asked))
    found = matrix.errors(got, matrix.reference(asked), case.sinks)
    assert not matrix.wrong(found), found


def test_packed_documents_and_grouped_heads():
    check(CASES["packed, grouped"])


@pytest.mark.sweep
@pytest.mark.parametrize("name", TAKEN)
def test_every_case(name):
    check(CASES[name])


ROW = Coordinates(256)


def reason(visibility=None, width=64, values=64, scoring=None, dtype=jnp.bfloat16, platform="gpu", length=256, **asked):
    q, k, v = (jnp.zeros((1, length, 2, h), dtype) for h in (width, width, values))
    visibility = causal(Coordinates(length)) if visibility is None else visibility
    return Triton().supports(new_request(q, k, v, visibility, scoring or Scoring(1.0), platform=platform, **asked))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, None),
        ({"visibility": bidirectional(ROW)}, None),
        ({"platform": "cpu"}, "it runs on a gpu, not on a cpu"),
        ({"dtype": jnp.float32}, "it takes bfloat16 and float16, not float32"),
        ({"bias": LinearBias((0.5, 0.5))}, "it adds no bias to scores"),
        ({"scoring": Scoring(1.0, 5.0)}, "it has no soft-cap"),
        ({"has_sinks": True}, "it has no sinks"),
        ({"dropout": 0.1}, "it has no dropout of weights"),
        ({"width": 192, "values": 128}, "its queries and values have one width, not 192 and 128"),
        ({"width": 256, "values": 256}, "its head widths are 32, 64 and 128, not 256"),
        ({"length": 200}, "200 queries are no multiple of 128"),
        (
            {"visibility": causal(ROW).with_pattern(SlidingWindow(size=9))},
            "it has no pattern such as SlidingWindow(size=9, first=0)",
        ),
        (
            {"visibility": causal(Coordinates(256, 44), Coordinates(300))},
            "queries 44 to 300 have the keys 0 to 300, and it needs those of the same tokens",
        ),
    ],
)
def test_what_it_refuses(asked, expected):
    assert reason(**asked) == expected
