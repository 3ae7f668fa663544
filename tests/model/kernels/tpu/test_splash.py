"""The kernel for TPUs, run as plain operations here: its numbers, and the requests that it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.patterns import Chunked, Fixed, SlidingWindow, Strided
from model.kernels import attend, choose, new_request, recorded_choices
from model.kernels.scoring import Scoring
from model.kernels.tpu.splash import Splash, block_size
from model.kernels.visibility import Coordinates, bidirectional, causal
from model.kernels.xla.plain import Plain
from model.layout import ONE_DEVICE
from model.positions.alibi import LinearBias
from tests.model.kernels import matrix
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import Sharding, layout_of

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


# What each part of a sequence sees; on two devices with two chunks each, on two, or on four devices with one.
PARTS = {
    "causal": causal(Coordinates(512)),
    "window, documents": causal(Coordinates(512, segment_ids=np.arange(512)[None] // 300)).with_pattern(
        SlidingWindow(size=200)
    ),
    "chunks": causal(Coordinates(512)).with_pattern(Chunked(size=160)),
    "both directions": bidirectional(Coordinates(512, segment_ids=np.arange(512)[None] // 300)),
}


def on_parts(visibility, layout, kernel, with_gradients):
    """Outputs, and gradients of queries, keys, values and sinks."""
    rng, t = np.random.default_rng(0), visibility.queries.count
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in ((1, t, 2, 8), (1, t, 1, 8), (1, t, 1, 8), (2,))]

    def attended(q, k, v, sink):
        return attend(q, k, v, visibility, Scoring(0.4, 3.0), sink_N=sink, layout=layout, kernels=(kernel,))

    def both(*arrays):
        y, pull = jax.vjp(attended, *arrays)
        return (y, *pull(jnp.cos(y)))

    found = jax.jit(both if with_gradients else lambda *arrays: (attended(*arrays),))(*arrays)
    return [np.asarray(x) for x in found]


def check_parts(visibility, devices, balanced, with_gradients=True):
    layout = layout_of(make_mesh(Mesh(data=1, context=devices), jax.devices()[:devices]), Sharding(balanced=balanced))
    with recorded_choices() as chosen:
        found = on_parts(visibility, layout, Splash(interpret=True, max_block=128), with_gradients)
    assert chosen == ["attention: splash"]
    for one, other in zip(found, on_parts(visibility, ONE_DEVICE, Plain(), with_gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)


def test_a_device_with_a_part_of_the_sequence():
    check_parts(causal(Coordinates(256)), 2, balanced=False, with_gradients=False)


@pytest.mark.sweep
@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize(("devices", "balanced"), [(2, True), (4, False)])
def test_every_part_of_a_sequence(name, devices, balanced):
    check_parts(PARTS[name], devices, balanced)


ROW = Coordinates(256)
PART = Coordinates(128, offset=jnp.int32(128), parts=2)
ONLY_ARRAYS = "indices are known only to arrays, and it needs them while tracing"
PACKED = Coordinates(256, position=jnp.zeros((1, 256), jnp.int32), segment_ids=jnp.zeros((1, 256), jnp.int32))


def reason(visibility=None, width=64, length=256, keys=None, scoring=None, dtype=jnp.bfloat16, platform="tpu", **asked):
    x = jnp.zeros((1, keys or length, 2, width), dtype)
    visibility = causal(ROW) if visibility is None else visibility
    request = new_request(
        x[:, : visibility.queries.count if keys else length],
        x,
        x,
        visibility,
        scoring or Scoring(1.0),
        platform=platform,
        **asked,
    )
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
        ({"visibility": causal(PART, ROW), "keys": 256}, None),
        ({"visibility": causal(dataclasses.replace(PART, parts=1), ROW), "keys": 256}, ONLY_ARRAYS),
        ({"visibility": bidirectional(PART, ROW), "keys": 256}, None),
        (
            {"visibility": bidirectional(PART, ROW).with_pattern(SlidingWindow(size=9)), "keys": 256},
            "its tables for parts of a row need a causal order, or no pattern",
        ),
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
