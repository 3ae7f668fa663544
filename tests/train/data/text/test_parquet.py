import bz2
import gzip
import lzma
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import UserError
from train.data.config import Source
from train.data.text.sources import list_units, read_unit


def documents(path, **options):
    return [(d.name, d.text) for unit in list_units(Source(path=str(path), **options)) for d in read_unit(unit)]


def write(path, column, name="text", **options):
    pq.write_table(pa.table({name: column}), path, **options)
    return path


ROWS = ["a", None, "", "d\u2028\r\n\0ö"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(ROWS),
        pa.array(ROWS, pa.large_string()),
        pa.array(ROWS, pa.string_view()),
        pa.array(ROWS).dictionary_encode(),
        pa.array([row if row is None else row.encode() for row in ROWS]),
        pa.array([row if row is None else row.encode() for row in ROWS], pa.large_binary()),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("row_group_size", [1, 3, 100])
def test_text_of_every_type_that_holds_some(tmp_path, column, row_group_size):
    path = write(tmp_path / "t.PARQUET", column, row_group_size=row_group_size)
    assert documents(path) == [("t.PARQUET:0", "a"), ("t.PARQUET:3", ROWS[3])]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([["a"]]), "list<"),
        (pa.array([{"x": "a"}]), "struct<"),
        (pa.array([0, 1]), "int64"),
        (pa.array([True]), "bool"),
    ],
)
def test_a_column_of_other_things_is_refused_by_its_type(tmp_path, column, said):
    with pytest.raises(UserError, match=rf"t\.parquet: the column 'text' holds {said}.*expected strings"):
        documents(write(tmp_path / "t.parquet", column))


def test_bytes_that_are_no_utf8_are_named_with_their_row(tmp_path):
    offsets = pa.py_buffer(np.array([0, 1, 3], np.int32))
    unchecked = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"ab\xff")])
    for column in (unchecked, pa.array([b"a", b"b\xff"])):
        path = write(tmp_path / "t.parquet", column)
        with pytest.raises(UserError, match=r"t\.parquet, row 1: the field 'text' is not UTF-8 at its byte 1"):
            documents(path)


def test_names_of_columns(tmp_path):
    pq.write_table(pa.table({"a": [{"b": "nested"}], "a.b": ["dotted"]}), tmp_path / "t.parquet")
    assert documents(tmp_path / "t.parquet", field="a.b") == [("t.parquet:0", "dotted")]
    with pytest.raises(UserError, match="no column 'text'; it has 'a', 'a.b'"):
        documents(tmp_path / "t.parquet")
    pq.write_table(pa.Table.from_arrays([pa.array(["x"])] * 2, names=["text", "text"]), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="the column 'text' more than once"):
        documents(tmp_path / "t.parquet")


def test_a_file_name_of_any_bytes(tmp_path):
    write(tmp_path / "t.parquet", pa.array(["a"])).rename(tmp_path / os.fsdecode(b"caf\xe9.parquet"))
    assert documents(tmp_path) == [("caf\\xe9.parquet:0", "a")]


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "t.parquet", pa.array(["a"]))
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match=r"t\.parquet cannot be read: Permission denied"):
        documents(path)


def test_a_table_without_rows_has_no_text(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path, row_group_size=1)
    assert documents(path) == []
    assert documents(write(path, pa.nulls(3))) == []


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_packed_tables(tmp_path, suffix, pack):
    write(tmp_path / "t.parquet", pa.array(["a", "b"]), row_group_size=1)
    (tmp_path / f"t.parquet{suffix}").write_bytes(pack((tmp_path / "t.parquet").read_bytes()))
    assert documents(tmp_path / f"t.parquet{suffix}") == [(f"t.parquet{suffix}:0", "a"), (f"t.parquet{suffix}:1", "b")]


def test_damage_names_the_file_and_the_row(tmp_path):
    path = write(tmp_path / "t.parquet", pa.array(["some text", "more text"]), row_group_size=1)
    whole = path.read_bytes()
    for content in (b"", whole[:-10], whole[:40], b"PAR1 nothing of the kind"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"t\.parquet is not a parquet file, or is damaged"):
            documents(path)
    middle = pq.ParquetFile(write(path, pa.array(["some text", "more text"]), row_group_size=1)).metadata
    start = middle.row_group(1).column(0).dictionary_page_offset or middle.row_group(1).column(0).data_page_offset
    path.write_bytes(whole[:start] + bytes(30) + whole[start + 30 :])
    with pytest.raises(UserError, match=r"t\.parquet is a damaged parquet file: row group 1, from row 1 on"):
        documents(path)


def test_progress_counts_the_text_and_not_the_other_columns(tmp_path):
    text = [f"row {k} " * 50 for k in range(100)]
    pq.write_table(pa.table({"text": text, "vector": [list(range(200))] * 100}), tmp_path / "t.parquet")
    (unit,) = list_units(Source(path=str(tmp_path / "t.parquet")))
    assert 0.9 * sum(map(len, text)) < unit.bytes < 1.1 * sum(map(len, text))
