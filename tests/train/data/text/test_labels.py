"""The label of a row, kept beside its text, in every kind of table."""

import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import UserError
from train.data.config import Source
from train.data.text import hub
from train.data.text.sources import LabelField, list_units, read_unit

ROWS = [
    {"text": "one", "source": "a"},
    {"text": "two", "source": "b"},
    {"text": "", "source": "c"},
    {"text": None, "source": None},
    {"text": "five", "source": None},
]
FOUND = [("one", "a"), ("two", "b"), ("", "c"), ("five", None)]
OPTIONAL, REQUIRED = LabelField("source", required=False), LabelField("source", required=True)


class Hub:
    """A dataset of the library `datasets`."""

    def __init__(self, rows):
        self.rows, self.column_names = rows, list(rows[0])
        self.data = type("Data", (), {"nbytes": 1000})

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, rows):
        return {name: [row.get(name) for row in self.rows[rows]] for name in self.column_names}


@pytest.fixture(params=["jsonl", "json", "parquet", "hf"])
def table(request, tmp_path, monkeypatch):
    """A function that writes rows as a table and returns its path."""

    def write(rows):
        path = tmp_path / f"t.{request.param}"
        if request.param == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif request.param == "json":
            path.write_text(json.dumps(rows))
        elif request.param == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
        else:
            hub._load.cache_clear()
            library = type("Library", (), {"load_dataset": staticmethod(lambda *a, **k: Hub(rows))})
            monkeypatch.setitem(sys.modules, "datasets", library)
            return "hf:a/b"
        return str(path)

    yield write
    hub._load.cache_clear()


def documents(path, label):
    return [(d.text, d.label) for unit in list_units(Source(path=path), 64) for d in read_unit(unit, label)]


def test_labels_of_rows(table):
    path = table(ROWS)
    assert documents(path, OPTIONAL) == FOUND
    assert documents(path, None) == [("one", None), ("two", None), ("five", None)]
    assert documents(path, LabelField("text", required=False))[:2] == [("one", "one"), ("two", "two")]


def test_a_required_label_is_in_every_row(table):
    assert documents(table(ROWS[:3]), REQUIRED) == FOUND[:3]
    with pytest.raises(UserError, match="the field 'source' is empty; give every row a value"):
        documents(table(ROWS), REQUIRED)
    with pytest.raises(UserError, match="no (field|column) 'nowhere'; it has 'text'"):
        documents(table(ROWS), LabelField("nowhere", required=True))
    assert documents(table(ROWS), LabelField("nowhere", required=False))[0] == ("one", None)


def test_a_label_that_is_no_text_counts_only_where_it_is_asked_for(table):
    path = table([{"text": "one", "source": 3}])
    assert documents(path, OPTIONAL) == [("one", None)]
    with pytest.raises(UserError, match="'source' holds (a number|int64|int), expected (a string|strings)"):
        documents(path, REQUIRED)


def test_a_row_that_is_a_string_has_no_label(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('"only text"\n')
    assert documents(str(path), OPTIONAL) == [("only text", None)]
    with pytest.raises(UserError, match="no field 'source'; it has none"):
        documents(str(path), REQUIRED)
