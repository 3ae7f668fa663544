import json
import sys

import pytest

from model.errors import UserError
from train.data.config import Source
from train.data.sources import fingerprint, list_files, list_units, read_unit
from train.data.text import hub, parquet


def documents(path, **options):
    return [d for unit in list_units(Source(path=str(path), **options), 64) for d in read_unit(unit)]


def test_folder_names_documents_by_path_and_keeps_every_byte(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_bytes("Zeile\r\nzwei\tö\n".encode())
    (tmp_path / "sub" / "a.txt").write_text("x")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / ".hidden").write_text("no")
    found = documents(tmp_path)
    assert [(d.name, d.text) for d in found] == [("b.txt", "Zeile\r\nzwei\tö\n"), ("sub/a.txt", "x")]
    assert found[0].num_bytes == (tmp_path / "b.txt").stat().st_size


def test_glob_names_documents_from_the_common_folder(tmp_path):
    for name in ("a/x.md", "b/y.md", "b/z.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [d.name for d in documents(f"{tmp_path}/**/*.md")] == ["a/x.md", "b/y.md"]


def test_long_text_files_are_cut_after_lines_or_characters(tmp_path):
    text = "".join(f"line {k} ö\n" for k in range(20_000)) + "ö" * (1 << 20)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    units = list_units(Source(path=str(tmp_path / "a.txt")), bytes_per_text=50_001)
    found = [d for unit in units for d in read_unit(unit)]
    assert "".join(d.text for d in found) == text
    assert found[0].name == "a.txt"
    assert found[1].name == f"a.txt from byte {found[0].num_bytes}"
    assert all(d.text.endswith("\n") for d in found[:4])
    assert max(len(d.text) for d in found) < 1 << 20  # the end has no line end to cut at
    assert sorted(len(d.text) for d in found)[len(found) // 2] < 51_000
    whole = list_units(Source(path=str(tmp_path / "a.txt")), bytes_per_text=None)
    assert [d.text for unit in whole for d in read_unit(unit)] == [text]


def test_jsonl_counts_lines_across_units(tmp_path):
    lines = [json.dumps({"text": f"document {k} \u2028 ö", "id": k}, ensure_ascii=False) for k in range(40)]
    lines[7] = ""
    (tmp_path / "d.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert len(list_units(Source(path=str(tmp_path / "d.jsonl")), 64)) > 5
    assert [(d.name, d.text) for d in documents(tmp_path / "d.jsonl")] == [
        (f"d.jsonl:{k + 1}", f"document {k} \u2028 ö") for k in range(40) if k != 7
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": 3}', r"line 2 \(byte 14\): the field 'text' holds a number"),
        (b'{"body": "x"}', r"line 2 \(byte 14\): no field 'text'; it has 'body'"),
        (b"[1]", r"line 2 \(byte 14\): expected a JSON object"),
        (b'{"text": ', r"line 2 \(byte 14\) is no JSON"),
        (b'{"text": "\xff"}', r"not UTF-8 at byte 24 \(found 0xff"),
        (b'{"text": "\\ud800"}', "lone surrogate"),
    ],
)
def test_jsonl_errors_name_line_and_byte(tmp_path, line, message):
    (tmp_path / "d.jsonl").write_bytes(b'{"text": "a"}\n' + line + b"\n")
    with pytest.raises(UserError, match=message):
        documents(tmp_path / "d.jsonl")


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"text": [f"row {k}" for k in range(10)], "n": list(range(10))})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=4)
    assert [(d.name, d.text) for d in documents(tmp_path / "t.parquet")] == [
        (f"t.parquet:{k}", f"row {k}") for k in range(10)
    ]
    with pytest.raises(UserError, match=r"no column 'body'; it has 'text', 'n'"):
        documents(tmp_path / "t.parquet", field="body")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing of the kind")
    with pytest.raises(UserError, match=r"bad.parquet is no parquet file"):
        documents(tmp_path / "bad.parquet")


def test_missing_extras_are_named(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    parquet._open.cache_clear()
    with pytest.raises(UserError, match=r"\.\[parquet\]"):
        documents(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"\.\[datasets\]"):
        documents("hf:somebody/something")


def test_hugging_face_dataset_by_rows(monkeypatch):
    """The library itself needs the network: a stand-in with its interface takes its place."""

    class Table:
        column_names = ("text",)
        data = type("Data", (), {"nbytes": 1000})

        def __len__(self):
            return 10

        def __getitem__(self, rows):
            return {"text": [f"row {k}" for k in range(10)][rows]}

    asked = []

    class Library:
        @staticmethod
        def load_dataset(*args, **kwargs):
            asked.append((args, kwargs))
            return Table()

    hub._load.cache_clear()
    monkeypatch.setitem(sys.modules, "datasets", Library)
    assert [d.name for d in documents("hf:a/b:c:validation")] == [f"a/b:c:validation:{k}" for k in range(10)]
    assert asked == [(("a/b", "c"), {"split": "validation"})]
    hub._load.cache_clear()


def test_bad_paths(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "folder").mkdir()
    for path, message in [
        (tmp_path / "nothing.txt", "no such text"),
        (tmp_path / "empty.txt", "is empty"),
        (tmp_path / "folder", "holds no file with text"),
        (f"{tmp_path}/*.md", "matches no file"),
    ]:
        with pytest.raises(UserError, match=message):
            documents(path)
    (tmp_path / "latin.txt").write_bytes(b"abc\xe9t\xe9")
    with pytest.raises(UserError, match=r"latin.txt is not UTF-8 at byte 3 \(found 0xe9"):
        documents(tmp_path / "latin.txt")


def test_stdlib_has_its_sources_and_none_of_its_tests():
    names = [name for _, name in list_files("stdlib").files]
    assert {"ast.py", "collections/__init__.py", "json/decoder.py"} <= set(names)
    assert not [n for n in names if {"test", "tests", "site-packages", "idle_test"} & set(n.split("/"))]
    assert names == sorted(names)
    assert len(names) > 400


def test_fingerprint_sees_a_change(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    source = Source(path=str(tmp_path / "a.txt"))
    before = fingerprint(list_units(source))
    assert fingerprint(list_units(source)) == before
    (tmp_path / "a.txt").write_text("two")
    assert fingerprint(list_units(source)) != before
