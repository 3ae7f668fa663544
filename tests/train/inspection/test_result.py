"""The three files of a result."""

import json

import numpy as np
import pytest

from model.errors import UserError
from train.inspection.result import Result, Table


def test_three_files_are_written(tmp_path):
    result = Result(
        title="T",
        about="a run",
        numbers={"x": np.float32(1.5), "bad": float("nan")},
        arrays={"a": np.arange(3)},
        parts=[Table(title="t", head=["a", "b"], rows=[["1", "2"]])],
        notes=["cut"],
    )
    page = result.write(tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / "index.html"
    assert json.loads((page.parent / "result.json").read_text()) == {
        "title": "T",
        "about": "a run",
        "notes": ["cut"],
        "x": 1.5,
        "bad": None,
    }
    assert np.load(page.parent / "arrays.npz")["a"].tolist() == [0, 1, 2]
    assert page.read_text().count("<td") == 2


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be made"):
        Result(title="", about="", numbers={}, arrays={}, parts=()).write(tmp_path / "file" / "x")
