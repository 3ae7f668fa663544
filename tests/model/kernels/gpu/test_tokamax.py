"""The kernel of tokamax, which runs on no machine without a GPU: the requests that it refuses, and what it is asked."""

import dataclasses
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.patterns import Chunked, Fixed, SlidingWindow, Strided
from model.kernels import attend
from model.kernels.gpu import tokamax
from model.kernels.gpu.tokamax import Tokamax, keys_before
from model.kernels.request import Request
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, bidirectional, causal
from model.positions.alibi import LinearBias
from tests.model.kernels import matrix

ROW = Coordinates(256)
DOCUMENTS = jnp.asarray(np.repeat([1, 2], [100, 156])[None])
PACKED = Coordinates(256, position=jnp.zeros((1, 256), jnp.int32), segment_ids=DOCUMENTS)
WINDOW = SlidingWindow(size=9)


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.setattr(tokamax, "is_installed", lambda: True)


def reason(visibility=None, width=64, values=64, dtype=jnp.bfloat16, batch=1, capability=(9, 0), **asked):
    visibility = causal(ROW) if visibility is None else visibility
    q, k, v = (jax.ShapeDtypeStruct((batch, 256, 2, h), dtype) for h in (width, width, values))
    asked = {"platform": "gpu", "scoring": Scoring(1.0), "compute_capability": capability} | asked
    return Tokamax().supports(Request(q=q, k=k, v=v, visibility=visibility, **asked))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, None),
        ({"visibility": causal(PACKED)}, None),
        ({"width": 192, "values": 128}, None),
        ({"scoring": Scoring(1.0, 5.0)}, None),
        ({"bias": LinearBias((0.5, 0.5))}, None),
        ({"visibility": causal(PACKED, consecutive_positions=True).with_pattern(Chunked(size=9))}, None),
        ({"platform": "tpu"}, "it runs on a gpu, not on a tpu"),
        ({"capability": (8, 9)}, "it needs a GPU of compute capability 9.0 or 10.0, not 8.9"),
        ({"dtype": jnp.float32}, "it takes bfloat16 and float16, not float32"),
        ({"has_sinks": True}, "it has no sinks"),
        (
            {"scoring": Scoring(1.0, 5.0), "bias": LinearBias((0.5, 0.5))},
            "it would cap the sum of product and bias, not the product alone",
        ),
        (
            {"batch": 1024, "bias": LinearBias((0.5, 0.5))},
            "it would hold the biases of 134,217,728 scores, more than 67,108,864",
        ),
        ({"width": 68}, "head widths are multiples of 8, not 68 and 64"),
        (
            {"visibility": bidirectional(PACKED)},
            "only for causal queries does a range of keys say which documents and patterns they see",
        ),
        (
            {"visibility": causal(ROW).with_pattern(Fixed(stride=4))},
            "the keys of Fixed(stride=4, summaries=1) are no range",
        ),
        ({"visibility": causal(ROW).with_pattern(Strided(stride=4))}, "the keys of Strided(stride=4) are no range"),
        (
            {"visibility": causal(PACKED).with_pattern(WINDOW)},
            "SlidingWindow(size=9, first=0) is about positions that only arrays know",
        ),
    ],
)
def test_what_it_refuses(asked, expected):
    assert reason(**asked) == expected


def test_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(tokamax, "is_installed", lambda: False)
    assert reason() == "it is not installed: pip install -e '.[tokamax]'"


@pytest.mark.parametrize("case", [case for case in matrix.CASES if case.causal], ids=lambda case: case.name)
def test_a_range_of_keys_is_the_mask(case):
    asked = matrix.problem(case, length=128)
    before = keys_before(asked.visibility)
    index = np.arange(128)
    first = np.zeros((1, 1, 128), int) if before is None else index - np.asarray(before)
    seen = (index >= first[..., None]) & (index <= index[:, None])
    np.testing.assert_array_equal(np.broadcast_to(seen[:, 0], asked.mask.shape), asked.mask)


def test_it_is_asked_for_the_same_sums(monkeypatch):
    """A stand-in takes the arguments as tokamax documents them: a range of keys, the cap after scale, one bias."""
    case = dataclasses.replace(matrix.CASES[0], packed=True, window=50, chunk=48, softcap=2.0, kv_heads=2)
    asked = matrix.problem(case, length=128, batch=1)

    def stand_in(q, k, v, *, bias, scale, is_causal, local_window_size, logits_soft_cap, implementation):
        assert implementation == "mosaic"
        assert is_causal
        assert bias is None
        before, after = local_window_size
        index = jnp.arange(q.shape[1])
        first = (index - before)[..., None]
        scores = jnp.einsum("btnh,bsnh->bnts", q, jnp.repeat(k, 2, axis=2)).astype(jnp.float32) * scale
        scores = logits_soft_cap * jnp.tanh(scores / logits_soft_cap)
        seen = (index >= first) & (index <= index[:, None] + after)
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
        return jnp.einsum("bnts,bsnh->btnh", weights, jnp.repeat(v, 2, axis=2))

    module = types.ModuleType("tokamax")
    module.dot_product_attention = stand_in
    monkeypatch.setitem(sys.modules, "tokamax", module)
    monkeypatch.setattr("model.kernels.compute_capability", lambda: (9, 0))
    y = attend(*asked.arrays[:3], asked.visibility, asked.scoring, platform="gpu", kernels=(Tokamax(),))
    want = matrix.equation(asked, *(jnp.asarray(x, jnp.float32) for x in asked.arrays), asked.mask)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float32), want, atol=0.03)
