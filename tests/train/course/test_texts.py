"""The texts of the course: there, large enough, and the same from lesson to lesson."""

import sys

import pytest

from model.errors import UserError
from train.course import texts


def test_both_texts_are_written_once(tmp_path):
    texts.write_texts(tmp_path / "texts")
    for name in texts.NAMES:
        assert 200_000 < len((tmp_path / "texts" / f"{name}.txt").read_bytes()) < 1_500_000
    assert "expression" in (tmp_path / "texts" / "english.txt").read_text(encoding="utf-8")
    assert "def " in (tmp_path / "texts" / "python.txt").read_text(encoding="utf-8")
    (tmp_path / "texts" / "english.txt").write_text("mine")
    texts.write_texts(tmp_path / "texts")
    assert (tmp_path / "texts" / "english.txt").read_text() == "mine"


def test_a_python_without_its_help_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match=r"no pydoc_data\.topics"):
        texts.english()
