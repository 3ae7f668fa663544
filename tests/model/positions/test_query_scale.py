"""The factor on queries that grows with position in steps."""

import math

import jax.numpy as jnp
import numpy as np

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.norms import RMSNorm
from model.positions.absolute import NoPositions
from model.positions.query_scale import LogTemperature


def test_factors_by_hand():
    """Steps of four positions: positions 0 to 2 are in step 0, 3 to 6 in step 1, 7 to 10 in step 2, 11 in step 3."""
    positions = np.array([[0, 2, 3, 6, 7, 10, 11]])
    steps = [0, 0, 1, 1, 2, 2, 3]
    q = np.random.default_rng(0).normal(size=(2, 7, 3, 5)).astype(np.float32)
    got = LogTemperature(step_length=4, scale=0.3).apply(q, positions)
    for t, step in enumerate(steps):
        np.testing.assert_allclose(got[:, t], q[:, t] * (1 + 0.3 * math.log(1 + step)), rtol=1e-6)
    later = LogTemperature(step_length=4, scale=0.3, offset=0).apply(q, positions)
    for t, step in enumerate([0, 0, 0, 1, 1, 2, 2]):  # positions 0 to 3 are in step 0, 4 to 7 in step 1, 8 to 11 in 2
        np.testing.assert_allclose(later[:, t], q[:, t] * (1 + 0.3 * math.log(1 + step)), rtol=1e-6)
    half = LogTemperature(step_length=4, scale=0.3).apply(q.astype(jnp.bfloat16), positions)
    assert half.dtype == jnp.bfloat16


def test_scores_are_multiplied_whatever_norms_queries(small, drawn, run, tokens):
    """Without other positions, a query's log-weights differ by its factor alone; each document counts for itself."""
    lengths = [7, 5]
    options = {
        "segment_ids_BT": np.tile(np.repeat([1, 2], lengths), (2, 1)).astype(np.int32),
        "positions_BT": np.tile(np.concatenate([np.arange(n) for n in lengths]), (2, 1)).astype(np.int32),
    }

    def weights(temperature):
        attention = GroupedQuery(num_heads=4, qk_norm=QKNorm(norm=RMSNorm()), temperature=temperature)
        config = small(position=NoPositions(), num_layers=1, mixer=attention)
        taps = run(config, drawn(config), tokens, taps=["attention_weights"], **options)[2]
        return np.asarray(taps["attention_weights"], np.float64)[0]

    plain, grown = weights(None), weights(LogTemperature(step_length=2, scale=0.5))
    for t in range(12):
        start = 0 if t < 7 else 7
        factor = 1 + 0.5 * math.log(1 + (t - start + 1) // 2)
        seen = slice(start, t + 1)
        expected = plain[:, :, t, seen] ** factor
        expected = expected / expected.sum(-1, keepdims=True)
        np.testing.assert_allclose(grown[:, :, t, seen], expected, rtol=1e-4, atol=1e-5)
