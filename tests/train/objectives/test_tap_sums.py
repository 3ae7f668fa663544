"""Sums and maxima over counted tokens against loops in NumPy."""

import jax.numpy as jnp
import numpy as np

from train.objectives.tap_sums import tap_sums


def test_sums_are_over_counted_tokens_and_maxima_over_rows():
    random = np.random.default_rng(0)
    weights, squares = random.choice([0.0, 1.0], (2, 5)), random.normal(size=(3, 2, 5))
    sizes = random.normal(size=(3, 2, 4, 2))
    taps = {"stream_squares": jnp.asarray(squares), "score_sizes": jnp.asarray(sizes), "unit_sizes": jnp.asarray(sizes)}
    sums, maxima = tap_sums(taps, jnp.asarray(weights))
    np.testing.assert_allclose(sums["stream_squares"], (squares * weights).sum((1, 2)), rtol=1e-5)
    for name in ("score_sizes", "unit_sizes"):
        np.testing.assert_allclose(sums[name], sizes[..., 1].sum(1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(maxima[name], sizes[..., 0].max(1), rtol=1e-6)
    assert sums.keys() == taps.keys()
    assert maxima.keys() == taps.keys() - {"stream_squares"}
