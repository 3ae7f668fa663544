import io
import json
import re

import pytest

from model.errors import UserError
from train.data.config import Source
from train.data.text import rows
from train.data.text.rows import JsonValues
from train.data.text.sources import list_units, read_unit


def documents(path, **options):
    return [(d.name, d.text) for unit in list_units(Source(path=str(path), **options), 64) for d in read_unit(unit)]


LINES = [
    # the line, and its text or its error
    ('{"text": "a\u2028b\u0085c\\n\\u2029\\u0000"}', "a\u2028b\u0085c\n\u2029\0"),
    ('{"text": "\\ud83d\\ude00"}', "😀"),
    ('{"text": ""}', ""),
    ('{"text": null, "id": 7}', ""),
    ('"only a string"', "only a string"),
    ('{"text": "a", "n": NaN, "m": -Infinity}', "a"),
    ('{"text": "a", "n": ' + "1" * 5000 + "}", "a"),
    ('{"text": "a", "id": 1, "id": 2}', "a"),
    ('{"n": {"text": 1, "text": 2}, "text": "a"}', "a"),
    ('{"text": "a", "text": "b"}', UserError("the field 'text' occurs more than once")),
    ('{"text": "\\ud800"}', UserError(r"a lone surrogate \(\\ud800\) at character 0 of 'text'")),
    ('{"text": "ab\\udc00"}', UserError(r"a lone surrogate \(\\udc00\) at character 2 of 'text'")),
    ('{"text": 3}', UserError("holds a number, expected a string")),
    ('{"text": true}', UserError("holds true or false, expected a string")),
    ('{"text": ["a"]}', UserError("holds an array, expected a string")),
    ('{"text": {"a": 1}}', UserError("holds an object, expected a string")),
    ('{"body": "a"}', UserError("no field 'text'; it has 'body'")),
    ("{}", UserError("no field 'text'; it has none")),
    ("null", UserError("expected a JSON object with the field 'text', got null")),
    ("7", UserError("expected a JSON object with the field 'text', got a number")),
    ('{"text": "a', UserError("(Unterminated string|Invalid control character)")),
    ('{"text": "a\tb"}', UserError("Invalid control character")),
    ('{"text": "a", "n": ' + "[" * 100_000, UserError("nested too deeply")),
]


@pytest.mark.parametrize(("line", "expected"), LINES, ids=lambda value: str(value)[:30])
def test_a_line_of_jsonl_is_its_text_or_an_error_with_its_number(tmp_path, line, expected):
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "first"}\n\n' + line + "\r\n", encoding="utf-8")
    if isinstance(expected, UserError):
        with pytest.raises(UserError, match=rf"d\.jsonl, line 3 \(byte 19\).*{expected}"):
            documents(path)
    else:
        found = [("d.jsonl:1", "first"), ("d.jsonl:3", expected)]
        assert documents(path) == [pair for pair in found if pair[1]]


@pytest.mark.parametrize(("line", "expected"), LINES, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize("array", [True, False])
def test_an_item_of_json_is_its_text_or_an_error_with_its_number(tmp_path, array, line, expected):
    path = tmp_path / "d.json"
    form = '[{{"text": "first"}},\n {}\n]' if array else '{{"text":\n "first"}}\n{}\n'
    path.write_text(form.format(line), encoding="utf-8")
    if isinstance(expected, UserError):
        with pytest.raises(UserError, match=rf"d\.json, item 2.*{expected}"):
            documents(path)
    else:
        found = [("d.json:1", "first"), ("d.json:2", expected)]
        assert documents(path) == [pair for pair in found if pair[1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"}', "item 1: not JSON: the array has no end"),
        ('[{"text": "a"},]', "item 2: not JSON: Expecting value"),
        ('[{"text": "a"} {"text": "b"}]', "item 1: not JSON: expected a comma after it"),
        ('[{"text": "a"}] {"text": "b"}', "item 1: not JSON: something follows the array"),
        ('{"text": "a"}, {"text": "b"}', "item 2: not JSON: Expecting value"),
        ('{"text": "a"', "item 1: not JSON: Expecting ',' delimiter"),
        ("[[" + '"a"' + "]]", "item 1: expected a JSON object with the field 'text', got an array"),
        ("[" * 100_000, "item 1: not JSON: it is nested too deeply"),
        ("[]", "has no text in it"),
        (" \n", "has no text in it"),
        ('{"name": "a package", "version": 1}', "item 1: no field 'text'; it has 'name', 'version'.*narrower path"),
    ],
)
def test_json_that_is_no_table(tmp_path, content, message):
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(UserError, match=message):
        documents(tmp_path / "d.json")


def test_an_array_in_a_jsonl_file_is_told_its_suffix(tmp_path):
    (tmp_path / "d.jsonl").write_text('[{"text": "a"}]')
    with pytest.raises(UserError, match=r"line 1 .*got an array; give the file the suffix \.json"):
        documents(tmp_path / "d.jsonl")


def test_arrays_are_cut_into_units_between_items(tmp_path):
    texts = [f"document {k} ö\u2028" * (k % 4) for k in range(60)]
    items = [{"id": [k], "text": text} if k % 2 else text for k, text in enumerate(texts)]
    for name, content in (
        ("plain.json", json.dumps(items)),
        ("wide.json", " " + json.dumps(items, indent=4, ensure_ascii=False) + "\n"),
        ("lines.json", "\n".join(json.dumps(item) for item in items)),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert len(list_units(Source(path=str(tmp_path / name)), 64)) > 5
        assert documents(tmp_path / name) == [(f"{name}:{k + 1}", text) for k, text in enumerate(texts) if text]


def test_marks_of_utf8_are_no_text(tmp_path):
    for name, content in (("a.jsonl", '{"text": "a"}\n'), ("a.json", '["a"]'), ("a.txt", "a")):
        (tmp_path / name).write_text("\ufeff" + content, encoding="utf-8")
        assert [text for _, text in documents(tmp_path / name)] == ["a"]


def test_bytes_that_are_no_utf8_are_named_with_their_place(tmp_path):
    content = b'["' + b"a" * 70_000 + b'", "\xff"]'
    (tmp_path / "d.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"d\.json, item 2 or after it, is not UTF-8 at byte {content.index(0xFF)} "):
        documents(tmp_path / "d.json")


def test_no_more_of_an_array_is_read_than_an_item_needs(monkeypatch):
    """An error near the beginning ends the reading of a very long file."""
    monkeypatch.setattr(rows, "_BLOCK", 16)

    class Long(io.BytesIO):
        def read(self, size=-1):
            assert self.tell() < 1000, "reads on"
            return super().read(size)

    values = JsonValues(Long(b'["one", "two", tree, ' + b'"word", ' * 10_000 + b"1]"), "a.json", 0)
    with pytest.raises(UserError, match=r"a\.json, item 3: not JSON: Expecting value"):
        list(values)


def test_a_line_of_megabytes(tmp_path):
    text = "word " * 1_000_000
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "b"}))
    assert documents(tmp_path / "d.jsonl") == [("d.jsonl:1", text), ("d.jsonl:2", "b")]


def test_the_advice_on_bytes_fits_what_they_are(tmp_path):
    (tmp_path / "old.txt").write_bytes("früher".encode("latin-1"))
    (tmp_path / "data.txt").write_bytes(b"some" + bytes(range(1, 256)))
    with pytest.raises(UserError, match=r"old\.txt is not UTF-8 at byte 2 .*iconv -f OLD"):
        documents(tmp_path / "old.txt")
    with pytest.raises(UserError, match=r"data\.txt is not UTF-8 at byte 131 .*binary data, not text") as refused:
        documents(tmp_path / "data.txt")
    assert not re.search("iconv", str(refused.value))
