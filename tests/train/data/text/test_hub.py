"""Hugging Face datasets, read through a stand-in for the library, which would need the network."""

import sys

import pytest

from model.errors import UserError
from train.data.config import Source
from train.data.text import hub
from train.data.text.sources import list_units, read_unit


class Table:
    """A dataset of one column."""

    data = type("Data", (), {"nbytes": 1000})

    def __init__(self, rows, column="text"):
        self.rows, self.column_names = rows, [column]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, rows):
        return {self.column_names[0]: self.rows[rows]}


@pytest.fixture
def hold(monkeypatch):
    """A function that makes the library hold a table; returns a list of the calls of the library."""

    def make(table):
        asked = []

        class Library:
            @staticmethod
            def load_dataset(*args, **kwargs):
                asked.append((args, kwargs))
                return table

        hub._load.cache_clear()
        monkeypatch.setitem(sys.modules, "datasets", Library)
        return asked

    yield make
    hub._load.cache_clear()


def documents(path):
    return [(d.name, d.text) for unit in list_units(Source(path=path), 64) for d in read_unit(unit)]


def test_rows_are_documents(hold):
    asked = hold(Table([f"row {k}" for k in range(10)]))
    assert documents("hf:a/b:c:validation") == [(f"a/b:c:validation:{k}", f"row {k}") for k in range(10)]
    assert asked == [(("a/b", "c"), {"split": "validation"})]
    hold(Table(["a", None, "", "d"]))
    assert documents("hf:a/b") == [("a/b:0", "a"), ("a/b:3", "d")]


@pytest.mark.parametrize(
    ("value", "kind"),
    [(0, "a number"), (False, "true or false"), ([], "an array"), ({}, "an object"), (1.5, "a number")],
)
def test_a_row_of_another_kind_is_an_error_with_its_number(hold, value, kind):
    hold(Table(["a", value]))
    with pytest.raises(UserError, match=f"hf:a/b, row 1: the field 'text' holds {kind}, expected a string"):
        documents("hf:a/b")


def test_a_missing_column_and_an_empty_dataset(hold):
    hold(Table(["a"], column="body"))
    with pytest.raises(UserError, match="hf:a/b has no column 'text'; it has 'body'"):
        documents("hf:a/b")
    hold(Table([]))
    with pytest.raises(UserError, match="hf:a/b has no text in it: it has no rows"):
        documents("hf:a/b")


def test_the_missing_library_is_named(monkeypatch):
    hub._load.cache_clear()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"hf:a/b: .*pip install -e \"\.\[datasets\]\""):
        documents("hf:a/b")
