"""The page of superposition and its phases, in small."""

import numpy as np
import pytest

from train.inspection.superposition.phases import DENSITIES, inspect


def test_the_page(tmp_path):
    result = inspect(features=4, dimensions=2, steps=3, grid=2)
    assert len(result.parts[0].rows) == len(DENSITIES)
    assert [chart.title for chart in result.parts[1].charts] == [
        "Features represented, against sparsity",
        "Phase diagram",
    ]
    assert result.arrays["weights"].shape == (len(DENSITIES), 2, 4)
    assert "superposition" in result.write(tmp_path).read_text().lower()
    phases = result.arrays["phases"]
    assert phases.shape == (2, 2, 2)
    assert np.all(np.isfinite(phases))


@pytest.mark.sweep
def test_the_phases():
    # Where features are dense, one dimension is for the more important of the two: importances 0.1, 1 and 10.
    phases = inspect(features=4, dimensions=2, steps=600, grid=3).arrays["phases"]
    assert phases[0, 0, 0] < 0.2
    assert phases[2, 0, 0] > 0.6
