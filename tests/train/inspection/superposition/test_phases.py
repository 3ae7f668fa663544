"""The page of superposition, in small."""

import numpy as np

from train.inspection.superposition.phases import DENSITIES, inspect


def test_the_page_and_its_phases(tmp_path):
    result = inspect(features=4, dimensions=2, steps=600, grid=3)
    assert len(result.parts[0].rows) == len(DENSITIES)
    assert [chart.title for chart in result.parts[1].charts] == [
        "Features represented, against sparsity",
        "Phase diagram",
    ]
    assert result.arrays["weights"].shape == (len(DENSITIES), 2, 4)
    assert "superposition" in result.write(tmp_path).read_text().lower()
    # Where features are dense, one dimension is for the more important of the two: importances 0.1, 1 and 10.
    phases = result.arrays["phases"]
    assert phases.shape == (3, 3, 2)
    assert np.all(np.isfinite(phases))
    assert phases[0, 0, 0] < 0.2
    assert phases[2, 0, 0] > 0.6
