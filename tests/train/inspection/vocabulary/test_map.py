"""The map: principal components against an eigendecomposition, checkpoints on the same axes."""

import numpy as np
import pytest

from model.errors import UserError
from train.inspection.vocabulary.map import components, inspect
from train.inspection.vocabulary.vectors import vectors_of
from train.run.loading import load_run


def test_components_are_eigenvectors_of_the_covariance():
    vectors = np.random.default_rng(0).normal(size=(40, 5)) * [3, 2, 1, 0.5, 0.1]
    mean, axes, shares = components(vectors)
    sizes, directions = np.linalg.eigh(np.cov(vectors.T))
    np.testing.assert_allclose(np.abs(np.sum(axes * directions[:, ::-1].T[:2], axis=1)), 1, rtol=1e-6)
    np.testing.assert_allclose(shares, sizes[::-1][:2] / sizes.sum(), rtol=1e-6)
    np.testing.assert_allclose(mean, vectors.mean(0))
    assert (axes[np.arange(2), np.abs(axes).argmax(1)] > 0).all()


def test_checkpoints_share_the_axes_of_the_last(tiny_run, tmp_path):
    run = load_run(tiny_run)
    result = inspect(run, text="the old café", checkpoints=["10", "20"])
    points, ids, axes, mean = (result.arrays[name] for name in ("points", "ids", "axes", "mean"))
    assert result.numbers["steps"] == [10, 20]
    assert points.shape == (2, len(ids), 2)
    early = vectors_of(load_run(tiny_run, "10"))[ids]
    np.testing.assert_allclose(points[0], (early - mean) @ axes.T, atol=1e-5)
    assert "scatter =" in result.write(tmp_path).read_text()
    unchosen = inspect(run)
    assert len(unchosen.arrays["ids"]) == 129  # of bytes and a mark, those that are characters
    assert not any("\ufffd" in token for token in unchosen.numbers["tokens"])
    assert "129 of the 257 tokens of the vocabulary: those with the lowest numbers without parts" in unchosen.notes[0]
    with pytest.raises(UserError, match="three different tokens"):
        inspect(run, text="aab")
