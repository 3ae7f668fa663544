"""The kernel with whole arrays, whose weights can be inspected; test_kernels.py compares its results."""

import numpy as np

from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, causal
from model.kernels.xla.plain import attention_weights
from tests.model.kernels.reference import heads, naive


def test_weights_are_those_of_the_equation_and_a_sink_takes_its_share():
    q, k, v = heads(4, 2, t=5, s=5)
    visibility = causal(Coordinates(5))
    _, expected = naive(q, k, v, visibility.mask(), 0.4)
    np.testing.assert_allclose(attention_weights(q, k, visibility, Scoring(0.4)), expected, rtol=1e-5, atol=1e-6)
    got = attention_weights(q, k, visibility, Scoring(0.4), sink_N=np.array([-50.0, -50, 50, 50], np.float32))
    np.testing.assert_allclose(got[:, :2], expected[:, :2], rtol=1e-5, atol=1e-6)
    assert got[:, 2:].max() < 1e-6
