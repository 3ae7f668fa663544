"""cuDNN's kernel, which runs on no machine without a GPU: the requests that it refuses, and what it is asked to do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.patterns import Chunked, SlidingWindow
from model.kernels import attend, choose, new_request
from model.kernels.gpu.cudnn import CuDNN, max_head_dim
from model.kernels.request import compute_capability
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, bidirectional, causal
from model.positions.alibi import LinearBias
from tests.model.kernels import matrix

ROW = Coordinates(256)
PACKED = Coordinates(256, position=jnp.zeros((1, 256), jnp.int32), segment_ids=jnp.zeros((1, 256), jnp.int32))
WINDOW = SlidingWindow(size=9)


def reason(visibility=None, width=64, values=64, scoring=None, dtype=jnp.bfloat16, platform="gpu", keys=256, **asked):
    q, k, v = (jnp.zeros((1, t, 2, h), dtype) for t, h in ((256, width), (keys, width), (keys, values)))
    visibility = causal(ROW) if visibility is None else visibility
    return CuDNN().supports(new_request(q, k, v, visibility, scoring or Scoring(1.0), platform=platform, **asked))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, None),
        ({"platform": "tpu"}, "it runs on a gpu, not on a tpu"),
        ({"dtype": jnp.float32}, "it takes bfloat16 and float16, not float32"),
        (
            {"visibility": causal(PACKED)},
            "its public interface has no packed documents: tokens would see those of other documents",
        ),
        ({"visibility": bidirectional(ROW)}, None),
        ({"visibility": causal(ROW).with_pattern(WINDOW)}, None),
        ({"visibility": bidirectional(ROW).with_pattern(WINDOW)}, "its windows are causal"),
        ({"visibility": causal(ROW).with_pattern(Chunked(size=9))}, "it has windows, and not Chunked(size=9)"),
        (
            {"visibility": causal(Coordinates(256, position=jnp.zeros((1, 256), jnp.int32))).with_pattern(WINDOW)},
            "SlidingWindow(size=9, first=0) is about positions that only arrays know",
        ),
        (
            {"visibility": causal(Coordinates(256, 44), Coordinates(300)), "keys": 300},
            "queries 44 to 300 have the keys 0 to 300, and it needs those of the same tokens",
        ),
        ({"scoring": Scoring(1.0, 5.0)}, "it has no soft-cap"),
        ({"has_sinks": True}, "it has no sinks"),
        ({"bias": LinearBias((0.5, 0.5))}, "it would take a bias as an array of all queries and keys"),
        ({"dropout": 0.1}, "it has no dropout of weights"),
        ({"width": 192, "values": 128}, "its queries and values have one width, not 192 and 128"),
        (
            {"width": 256, "values": 256},
            "a head has at most 128 numbers, a multiple of 8, and this one has 256",
        ),
        ({"width": 68, "values": 68}, "a head has at most 128 numbers, a multiple of 8, and this one has 68"),
    ],
)
def test_what_it_refuses(asked, expected):
    assert reason(**asked) == expected


def test_hopper_has_wider_heads():
    assert (max_head_dim((9, 0)), max_head_dim((8, 6))) == (256, 128)
    assert compute_capability() == (8, 0)


def test_packed_documents_go_to_a_kernel_that_compares_them():
    x = jnp.zeros((1, 4096, 2, 64), jnp.bfloat16)
    tokens = Coordinates(4096, segment_ids=jnp.zeros((1, 4096), jnp.int32))
    choice = choose(new_request(x, x, x, causal(tokens), Scoring(1.0), platform="gpu"))
    assert choice.kernel.name == "triton"
    assert "not cudnn: its public interface has no packed documents" in str(choice)


@pytest.mark.parametrize("name", ["window", "both directions"])
def test_it_is_asked_for_the_same_sums(name, monkeypatch):
    """JAX's own implementation with XLA takes the same arguments as cuDNN, and runs here."""
    original, asked = jax.nn.dot_product_attention, []

    def with_xla(*arrays, implementation, **options):
        asked.append(implementation)
        return original(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", with_xla)
    case = next(case for case in matrix.CASES if case.name == name)
    problem = matrix.problem(dataclasses.replace(case, kv_heads=2), batch=1)
    y = attend(*problem.arrays[:3], problem.visibility, problem.scoring, platform="gpu", kernels=(CuDNN(),))
    assert asked == ["cudnn"]
    want = matrix.equation(problem, *(jnp.asarray(x, jnp.float32) for x in problem.arrays), problem.mask)
    np.testing.assert_allclose(np.asarray(y, np.float32), want, atol=0.03)
