"""The kernel for TPUs, run as plain operations here: its numbers, and the requests that it refuses."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.patterns import Chunked, Fixed, SlidingWindow, Strided
from model.kernels import choose, new_request
from model.kernels.scoring import Scoring
from model.kernels.tpu.splash import Splash, block_size
from model.kernels.visibility import Coordinates, bidirectional, causal
from model.positions.alibi import LinearBias
from tests.model.kernels import matrix

HERE = Splash(interpret=True, max_block=128)  # two blocks of queries and of keys
CASES = {case.name: case for case in matrix.CASES}
TELLING = dataclasses.replace(CASES["packed, sinks, window, soft-cap, grouped"], chunk=150)


def check(case, kernel):
    asked = matrix.problem(case)
    got = matrix.with_gradients(asked, kernel).lower().compile()(*matrix.arguments(asked))
    found = matrix.errors(got, matrix.reference(asked), case.sinks)
    assert not matrix.wrong(found), found


def test_everything_at_once():
    check(TELLING, HERE)


@pytest.mark.sweep
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.bias])
def test_every_case(name):
    check(CASES[name], HERE)


@pytest.mark.sweep
@pytest.mark.parametrize("pattern", [SlidingWindow(size=30, first=4)])
def test_a_pattern_of_a_row_without_documents(pattern):
    asked = matrix.problem(CASES["causal"])
    visibility = asked.visibility.with_pattern(pattern)
    asked = dataclasses.replace(asked, visibility=visibility, mask=np.broadcast_to(visibility.mask(), asked.mask.shape))
    got = matrix.with_gradients(asked, HERE).lower().compile()(*matrix.arguments(asked))
    assert not matrix.wrong(matrix.errors(got, matrix.reference(asked), False))


ROW = Coordinates(256)
PACKED = Coordinates(256, position=jnp.zeros((1, 256), jnp.int32), segment_ids=jnp.zeros((1, 256), jnp.int32))


def reason(visibility=None, width=64, length=256, scoring=None, dtype=jnp.bfloat16, platform="tpu", **asked):
    x = jnp.zeros((1, length, 2, width), dtype)
    visibility = causal(ROW) if visibility is None else visibility
    request = new_request(x, x, x, visibility, scoring or Scoring(1.0), platform=platform, **asked)
    return Splash().supports(request)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, None),
        ({"platform": "gpu"}, "it runs on a tpu, not on a gpu"),
        ({"dropout": 0.1}, "it has no dropout of weights"),
        ({"bias": LinearBias((0.5, 0.5))}, "it adds no bias to scores"),
        ({"length": 200}, "200 queries and 200 keys are not both a multiple of 128"),
        ({"dtype": jnp.float16}, "it takes bfloat16 and float32, not float16"),
        ({"scoring": Scoring(1.0, reductions="bfloat16")}, "its scores are float32, not bfloat16"),
        ({"visibility": causal(ROW).with_prefix(3)}, "it has no prefix that is seen from both sides"),
        ({"visibility": causal(ROW).with_mask(jnp.ones((1, 256, 256), bool))}, "it takes no mask as an array"),
        (
            {"visibility": causal(Coordinates(256, index=jnp.zeros((1, 256), jnp.int32)), ROW)},
            "indices are known only to arrays, and it needs them while tracing",
        ),
        (
            {"visibility": causal(PACKED).with_pattern(SlidingWindow(size=9))},
            "SlidingWindow(size=9, first=0) is about positions that only arrays know",
        ),
        ({"visibility": causal(PACKED, consecutive_positions=True).with_pattern(SlidingWindow(size=9))}, None),
        ({"visibility": causal(PACKED).with_pattern(Chunked(size=9))}, None),
        (
            {"visibility": causal(Coordinates(256), Coordinates(256, 10))},
            "some query has no key at its own index, and a query that sees no key makes it return NaN",
        ),
        (
            {"visibility": causal(ROW).with_pattern(Fixed(stride=4))},
            "Fixed(stride=4, summaries=1) divides positions, which it is not compiled for",
        ),
        (
            {"visibility": causal(ROW).with_pattern(Strided(stride=4))},
            "Strided(stride=4) divides positions, which it is not compiled for",
        ),
        ({"visibility": bidirectional(PACKED)}, None),
        ({"has_sinks": True}, None),
    ],
)
def test_what_it_refuses(asked, expected):
    assert reason(**asked) == expected


def test_a_tpu_takes_it_first_and_says_why_not():
    x = jnp.zeros((1, 4096, 2, 64), jnp.bfloat16)
    tokens = causal(Coordinates(4096))
    assert str(choose(new_request(x, x, x, tokens, Scoring(1.0), platform="tpu"))) == "splash"
    dropped = choose(new_request(x, x, x, tokens, Scoring(1.0), platform="tpu", dropout=0.1))
    assert str(dropped).startswith("tiles (not splash: it has no dropout of weights; not blocks: ")


@pytest.mark.parametrize(
    ("length", "largest", "size"), [(4096, 1024, 1024), (128, 1024, 128), (384, 1024, 384), (1280, 1024, 640)]
)
def test_blocks_divide_the_length(length, largest, size):
    assert block_size(length, largest) == size
