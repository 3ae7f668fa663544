"""The page of superposition, in small."""

from train.inspection.superposition.phases import DENSITIES, inspect, phase_diagram


def test_the_page(tmp_path):
    result = inspect(features=4, dimensions=2, steps=200, grid=3)
    assert len(result.parts[0].rows) == len(DENSITIES)
    assert [chart.title for chart in result.parts[1].charts] == [
        "Features represented, against sparsity",
        "Phase diagram",
    ]
    assert result.arrays["weights"].shape == (len(DENSITIES), 2, 4)
    assert result.arrays["phases"].shape == (3, 3, 2)
    assert "superposition" in result.write(tmp_path).read_text().lower()


def test_a_feature_of_little_importance_is_left_out_where_features_are_dense():
    densities, relative, phases = phase_diagram(3, 700, 0)
    assert (list(densities), list(relative)) == ([1.0, 0.1, 0.01], [0.1, 1.0, 10.0])
    assert phases[0, 0, 0] < 0.2
    assert phases[2, 0, 0] > 0.8
