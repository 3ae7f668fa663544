"""Points from CSV files, and their budgets."""

import numpy as np
import pytest

from model.errors import UserError
from train.lab.scaling.points import Points, group_by_budget, read_points, write_points


def test_a_file_of_points(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("\ufeffname,loss, tokens ,parameters\na,3.5,1e9,2e6\nb,3.25,2e9,3e6\n", encoding="utf-8")
    points = read_points(path)
    assert [points.parameters.tolist(), points.tokens.tolist()] == [[2e6, 3e6], [1e9, 2e9]]
    assert points.loss.tolist() == [3.5, 3.25]
    assert points.flops.tolist() == [6 * 2e15, 6 * 6e15]
    path.write_text("parameters,tokens,loss,flops\n2e6,1e9,3.5,7e15\n")
    assert read_points(path).flops.tolist() == [7e15]


def test_written_points_are_read_back(tmp_path):
    rows = [{"name": "a", "parameters": 3, "tokens": 5, "flops": 100.0, "loss": 0.1 + 0.2}]
    write_points(tmp_path / "points.csv", rows)
    points = read_points(tmp_path / "points.csv")
    assert (points.parameters, points.tokens, points.flops, points.loss) == (3, 5, 100, 0.1 + 0.2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no column 'parameters'; expected the columns parameters, tokens, loss, and flops if known"),
        ("parameters,tokens\n1,2\n", "has no column 'loss'.*its columns are parameters, tokens"),
        ("parameters,tokens,loss\n", "has no rows"),
        ("parameters,tokens,loss\n1,2,3\n1,x,3\n", "line 3: tokens is 'x'; expected a number above 0"),
        ("parameters,tokens,loss\n1,2\n", "line 2: loss is None"),
        ("parameters,tokens,loss\n1,2,nan\n", "line 2: loss is 'nan'"),
        ("parameters,tokens,loss\n1,0,3\n", "line 2: tokens is '0'"),
    ],
)
def test_bad_files(text, words, tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_points(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_points(tmp_path / "none.csv")


def test_runs_of_one_budget_are_one_group():
    flops = np.array([3.1e18, 1e18, 1.05e18, 3e18, 1e20])
    assert [group.tolist() for group in group_by_budget(flops)] == [[1, 2], [3, 0], [4]]
    assert group_by_budget(np.zeros(0)) == []


def test_a_part_of_the_points():
    points = Points.of([1, 2, 3], [4, 5, 6], [7, 8, 9])
    assert points.take([2, 0]).parameters.tolist() == [3, 1]
    assert points.take(points.loss > 7).flops.tolist() == [60, 108]
    assert points.with_loss(np.array([1.0, 1, 1])).tokens.tolist() == [4, 5, 6]
    assert len(points) == 3
