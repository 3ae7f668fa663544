"""Softmax regression: the gradient of its loss vanishes at the result, and it finds what is linear."""

import numpy as np

from train.inspection.probes.linear import fit


def test_the_result_is_the_minimum():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(300, 6)) * 3 + 1
    labels = (x @ draw.normal(size=(6, 3)) + draw.gumbel(size=(300, 3)) * 4).argmax(1)
    probe = fit(x, labels, 3, l2=0.01, steps=100)
    z = (x - x.mean(0)) / (x.std(0) + 1e-6)
    scores = z @ probe.w_DC + probe.b_C
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    error = (p - np.eye(3)[labels]) / 300
    np.testing.assert_allclose(z.T @ error + 0.01 * probe.w_DC, 0, atol=1e-4)
    np.testing.assert_allclose(error.sum(0), 0, atol=1e-4)
    assert (probe.predict(x) == labels).mean() > 0.5
