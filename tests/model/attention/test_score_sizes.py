"""Sizes of attention scores against whole arrays of scores, for blocks of queries of any size."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention import score_sizes as module
from model.attention.patterns import SlidingWindow
from model.attention.score_sizes import score_sizes
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, causal
from model.positions.alibi import ALiBi

RANDOM = np.random.default_rng(0)
B, T, N, K, H = 2, 11, 4, 2, 3
Q, KEYS = RANDOM.normal(size=(B, T, N, H)), RANDOM.normal(size=(B, T, K, H))
WEIGHTS = RANDOM.choice([0.0, 1.0, 0.5], size=(B, T))
IDS = np.repeat([[1, 2]], [5, 6], axis=1) * np.ones((B, 1), int)


def in_one_go(mask_TT, softcap, bias_NTT, weights):
    scores = np.einsum("btnh,bsnh->bnts", Q, np.repeat(KEYS, N // K, axis=2)) * 0.7
    scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
    scores = scores + bias_NTT
    counted = mask_TT & (weights[:, None, :, None] > 0)
    means = np.where(mask_TT, scores**2, 0).sum(-1) / mask_TT.sum(-1)
    return np.stack([np.where(counted, scores, -np.inf).max((2, 3)), (means * weights[:, None]).sum(-1)], axis=-1)


@pytest.mark.parametrize(
    ("kind", "block"), [("causal", 128), ("window and soft-cap", 4), ("documents and bias", 4), ("no weights", 11)]
)
def test_they_are_those_of_the_whole_array(kind, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    mask, softcap, bias, added = np.tril(np.ones((T, T), bool)), None, None, np.zeros(())
    visibility, weights = causal(Coordinates(T)), None if kind == "no weights" else WEIGHTS
    if kind == "window and soft-cap":
        visibility, softcap = visibility.with_pattern(SlidingWindow(size=3)), 1.5
        mask = mask & ~np.tril(np.ones((T, T), bool), -3)
    if kind == "documents and bias":
        visibility = causal(Coordinates(T, segment_ids=jnp.asarray(IDS)))
        mask = mask & (IDS[0][:, None] == IDS[0])
        bias = ALiBi().bias(N, None)
        distance = np.arange(T)[:, None] - np.arange(T)
        added = -(2.0 ** -(8 / N * np.arange(1, N + 1)))[:, None, None] * distance
    q, k = jnp.asarray(Q, jnp.float32), jnp.asarray(KEYS, jnp.float32)
    given = None if weights is None else jnp.asarray(weights, jnp.float32)
    found = score_sizes(q, k, visibility, Scoring(0.7, softcap), given, bias)
    expected = in_one_go(mask, softcap, added, np.ones((B, T)) if weights is None else weights)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_no_array_has_all_queries_and_keys():
    """A row of 1,024 tokens: arrays of scores have the queries of one block."""
    q = jax.ShapeDtypeStruct((1, 1024, 2, 8), jnp.float32)
    text = str(jax.make_jaxpr(lambda q: score_sizes(q, q, causal(Coordinates(1024)), Scoring(1.0), None))(q))
    shapes = [[int(n) for n in found.split(",")] for found in re.findall(r"[a-z]\w*\[([\d,]+)\]", text)]
    assert max(int(np.prod(shape)) for shape in shapes) == 2 * 128 * 1024
