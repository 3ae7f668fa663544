import gzip
import json
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import UserError
from train.data.config import Source
from train.data.text import parquet
from train.data.text.sources import fingerprint, list_files, list_units, read_unit


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
    units = list_units(Source(path=str(tmp_path / "a.txt")), bytes_per_document=50_001)
    found = [d for unit in units for d in read_unit(unit)]
    assert "".join(d.text for d in found) == text
    assert found[0].name == "a.txt"
    assert found[1].name == f"a.txt from byte {found[0].num_bytes}"
    assert all(d.text.endswith("\n") for d in found[:4])
    assert max(len(d.text) for d in found) < 1 << 20  # the end has no line end to cut at
    assert sorted(len(d.text) for d in found)[len(found) // 2] < 51_000
    whole = list_units(Source(path=str(tmp_path / "a.txt")), bytes_per_document=None)
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
        (b'{"text": ', r"line 2 \(byte 14\) is not JSON"),
        (b'{"text": "\xff"}', r"not UTF-8 at byte 24 \(found 0xff"),
        (b'{"text": "\\ud800"}', "lone surrogate"),
    ],
)
def test_jsonl_errors_name_line_and_byte(tmp_path, line, message):
    (tmp_path / "d.jsonl").write_bytes(b'{"text": "a"}\n' + line + b"\n")
    with pytest.raises(UserError, match=message):
        documents(tmp_path / "d.jsonl")


def test_parquet(tmp_path):
    table = pa.table({"text": [f"row {k}" for k in range(10)], "n": list(range(10))})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=4)
    assert [(d.name, d.text) for d in documents(tmp_path / "t.parquet")] == [
        (f"t.parquet:{k}", f"row {k}") for k in range(10)
    ]
    with pytest.raises(UserError, match=r"no column 'body'; it has 'text', 'n'"):
        documents(tmp_path / "t.parquet", field="body")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing of the kind")
    with pytest.raises(UserError, match=r"bad.parquet is not a parquet file"):
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


def test_packed_text_is_cut_and_counted_as_the_text_in_it(tmp_path):
    """Sizes are sizes of the text, which may be a thousand times as long as its compressed file."""
    text = "".join(f"line {k} ö\n" for k in range(20_000))
    (tmp_path / "plain.txt").write_text(text, encoding="utf-8")
    (tmp_path / "packed.txt.GZ").write_bytes(gzip.compress(text.encode()))
    plain, packed = (
        list_units(Source(path=str(tmp_path / name)), bytes_per_document=50_001)
        for name in ("plain.txt", "packed.txt.GZ")
    )
    assert [(u.start, u.stop, u.bytes) for u in packed] == [(u.start, u.stop, u.bytes) for u in plain]
    assert sum(unit.bytes for unit in packed) == len(text.encode())
    found = [d for unit in packed for d in read_unit(unit)]
    assert "".join(d.text for d in found) == text
    assert [d.name for d in found][:2] == ["packed.txt.GZ", f"packed.txt.GZ from byte {found[0].num_bytes}"]
    (whole,) = list_units(Source(path=str(tmp_path / "packed.txt.GZ")), bytes_per_document=None)
    assert [d.text for d in read_unit(whole)] == [text]
    lines = [json.dumps({"text": f"row {k}"}) for k in range(100)]
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    assert len(list_units(Source(path=str(tmp_path / "rows.jsonl.gz")), 64)) > 5
    assert [(d.name, d.text) for d in documents(tmp_path / "rows.jsonl.gz")] == [
        (f"rows.jsonl.gz:{k + 1}", f"row {k}") for k in range(100)
    ]


def test_damaged_archives_are_refused_before_anything_is_read(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    packed = gzip.compress(b"words " * 1000)
    for content in (packed[:-3], packed + b"more"):
        (tmp_path / "b.txt.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"b\.txt\.gz is a damaged or truncated gzip file"):
            list_units(Source(path=str(tmp_path)), bytes_per_document=None)
        with pytest.raises(UserError, match=r"b\.txt\.gz is a damaged or truncated gzip file"):
            list_units(Source(path=str(tmp_path)))


def test_files_that_are_no_text_are_named_together(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    contents = {
        "b.pdf": b"%PDF-1.4",
        "c.docx": b"PK\x03\x04",
        "d.txt": "wide".encode("utf-16"),
        "e.gz": gzip.compress(b"%PDF-1"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as refused:
        documents(tmp_path)
    lines = str(refused.value).split("\n  ")
    assert lines[0].startswith(f"{tmp_path} holds files that are not UTF-8 text; fix them, or leave them out")
    assert [line.split(":")[0] for line in lines[1:]] == ["b.pdf", "c.docx", "d.txt", "e.gz"]
    assert "iconv" not in lines[4]
    assert [d.name for d in documents(f"{tmp_path}/a*")] == ["a.txt"]
    with pytest.raises(UserError, match=r"d\.txt is not UTF-8 text, but UTF-16 text; convert it: iconv -f UTF-16"):
        documents(tmp_path / "d.txt")


def test_marks_line_ends_and_zeros(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\rthree\u2028\u0085\0\n".encode())
    (found,) = documents(tmp_path)
    assert found.text == "one\r\ntwo\rthree\u2028\u0085\0\n"
    assert found.num_bytes == (tmp_path / "a.txt").stat().st_size - 3
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(UserError, match="has no text in it"):
        documents(tmp_path)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path):
    for name, content in (
        ("a.txt", b"words"),
        ("b.jsonl", b'"words"'),
        ("c.json", b'["words"]'),
        ("d.gz", gzip.compress(b"w")),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        (unit,) = list_units(Source(path=str(path)))
        assert len(list(read_unit(unit))) == 1
        path.write_bytes(content + b" ")
        with pytest.raises(UserError, match=f"{name} has changed since the text was listed"):
            list(read_unit(unit))
        path.unlink()
        with pytest.raises(UserError, match=f"{name} cannot be read: No such file"):
            list(read_unit(unit))


def test_a_file_that_grows_while_it_is_listed_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "log.txt"
    path.write_text("a line\n")
    module = sys.modules[list_units.__module__]
    cut = module._text_units
    monkeypatch.setattr(module, "_text_units", lambda *given: (path.write_text("a line\nanother\n"), cut(*given))[1])
    with pytest.raises(UserError, match=r"log\.txt has changed since .* when no program writes to it any more"):
        list_units(Source(path=str(path)))


def test_a_file_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    opened = open

    def refuse(path, *given, **options):
        if os.fspath(path).endswith("b.txt"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *given, **options)

    units = list_units(Source(path=str(tmp_path)))
    monkeypatch.setattr("builtins.open", refuse)
    for act in (
        lambda: list_units(Source(path=str(tmp_path))),
        lambda: fingerprint(units),
        lambda: list(read_unit(units[1])),
    ):
        with pytest.raises(UserError, match=r"b\.txt cannot be read: Permission denied; .*narrower path"):
            act()


def test_what_is_left_out_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / ".b.txt").write_text("b")
    said = []
    list_units(Source(path=str(tmp_path)), say=said.append)
    assert said == [f"{tmp_path}: left out hidden files and caches: .b.txt"]
