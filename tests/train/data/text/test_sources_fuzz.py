"""Random names, texts, rows and tables: the text read is the text written, or an error names the place.

The expected results are computed from the written data, without the code that reads.
"""

import bz2
import gzip
import json
import lzma
import os
import re
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.errors import UserError
from train.data.config import Source
from train.data.text.sources import list_units, read_unit

PACK = {"": bytes, ".gz": gzip.compress, ".BZ2": bz2.compress, ".xz": lzma.compress}
fuzz = settings(max_examples=60)

# Texts that may be mistaken for other data: texts with control characters, and the head of a PDF or an RTF.
ODD = re.compile(r"[\0-\x08\x0e-\x1f\x7f]|\A(%PDF-|\{\\rtf1)")

# Bytes of a name: characters of patterns, of shells, of no encoding; never too long, and neither "." nor "..".
name_bytes = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.text(min_size=1, max_size=6).map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from([b"*", b"[a]", b"?", b"-x", b" ", b"a\nb", b"~", b"hf:x", b"caf\xe9", b"__pycache__", b".hidden"]),
).map(lambda name: name.translate(None, b"/\0"))
names = name_bytes.filter(lambda name: name not in (b"", b".", b".."))
paths = st.lists(names, min_size=1, max_size=3).map(b"/".join)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def read(path, **options):
    units = list_units(Source(path=path, **options), bytes_per_unit=16, bytes_per_document=None)
    return [(d.name, d.text) for unit in units for d in read_unit(unit)]


def read_or_refuse(path, **options):
    """The documents and no message, or no documents and the message of the error."""
    try:
        return read(path, **options), ""
    except UserError as error:
        return [], str(error)


def write(root, path, content):
    path = os.path.join(os.fsencode(root), path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


@fuzz
@given(st.dictionaries(paths, st.tuples(texts, st.sampled_from(list(PACK))), max_size=6))
@example(
    {b"a": ("\ufeffmark", ".gz"), b"b": ("a\r\n\r\u2028\u0085\0b", ""), b"[a]/*": ("x", ".xz"), b".a/b": ("no", "")}
)
def test_a_folder_gives_the_texts_of_its_files(tree):
    with tempfile.TemporaryDirectory() as root:
        expected = []
        for path, (text, suffix) in tree.items():
            try:
                write(root, path + b".t" + suffix.encode(), PACK[suffix](text.encode()))
            except OSError:  # one path has a file where another has a folder
                continue
            hidden = any(part.startswith(b".") for part in path.split(b"/")) or b"__pycache__" in path.split(b"/")[:-1]
            if not hidden and text.removeprefix("\ufeff"):
                expected.append(text.removeprefix("\ufeff"))
        found, refused = read_or_refuse(root)
        if refused:
            odd = any(ODD.search(text) for text in expected)
            assert odd or (not expected and ("no file with text" in refused or "has no text" in refused))
        else:
            assert sorted(text for _, text in found) == sorted(expected)
            assert all(name.encode("utf-8") and "\n" not in name for name, _ in found)
            for path, (text, suffix) in tree.items():
                full = os.path.join(root, os.fsdecode(path + b".t" + suffix.encode()))
                if text.removeprefix("\ufeff") and os.path.isfile(full):  # a name is never read as a pattern
                    assert [t for _, t in read(full)] == [text.removeprefix("\ufeff")]


@fuzz
@given(st.binary(max_size=60), st.sampled_from(list(PACK)))
@example(b"\xff\xfea\0", "")
@example("früher".encode("latin-1"), ".gz")
def test_a_file_of_any_bytes_is_its_text_or_an_error_with_its_name(content, suffix):
    with tempfile.TemporaryDirectory() as root:
        write(root, b"a.txt" + suffix.encode(), PACK[suffix](content))
        found, refused = read_or_refuse(f"{root}/a.txt{suffix}")
    text = content.decode("utf-8", "replace")
    if refused:
        assert f"a.txt{suffix}" in refused
        assert text.encode() != content or ODD.search(text) or text in ("", "\ufeff")
    else:
        assert found == [(f"a.txt{suffix}", text.removeprefix("\ufeff"))]
        assert text.encode() == content


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
good_rows = st.one_of(texts, st.fixed_dictionaries({"text": st.none() | texts}, optional={"id": values, "n": values}))
bad_rows = st.one_of(values, st.fixed_dictionaries({"text": values}))


def text_of(row):
    """The text of a row, "" for none; None where there is an error."""
    if isinstance(row, dict):
        if "text" not in row:
            return None
        row = "" if row["text"] is None else row["text"]
    if not isinstance(row, str) or any("\ud800" <= c <= "\udfff" for c in row):
        return None
    return row


@fuzz
@given(
    rows=st.lists(st.one_of(good_rows, good_rows, good_rows, bad_rows), max_size=8),
    array=st.booleans(),
    escaped=st.booleans(),
    suffix=st.sampled_from(list(PACK)),
    indent=st.sampled_from([None, 1]),
)
def test_rows_of_json_are_their_texts_or_an_error_with_the_first_bad_one(rows, array, escaped, suffix, indent):
    plain = json.dumps(rows).encode()  # surrogates can only be written as escapes
    escaped = escaped or b"\\ud" in plain
    if array:
        name, place = f"rows.JSON{suffix}", "item"
        content = json.dumps(rows, ensure_ascii=escaped, indent=indent)
    else:
        name, place = f"rows.jsonl{suffix}", "line"
        content = "\n".join(json.dumps(row, ensure_ascii=escaped) for row in rows) + "\n" * bool(indent)
    found = [text_of(row) for row in rows]
    with tempfile.TemporaryDirectory() as root:
        write(root, name.encode(), PACK[suffix](content.encode()))
        got, refused = read_or_refuse(f"{root}/{name}")
    if None in found:
        assert re.search(rf"{re.escape(name)}, {place} {found.index(None) + 1}\b", refused)
    elif refused:
        assert name in refused
        assert not any(found)
    else:
        assert got == [(f"{name}:{k + 1}", text) for k, text in enumerate(found) if text]


@fuzz
@given(st.lists(st.binary(max_size=20), max_size=4), st.sampled_from(["jsonl", "json"]))
@example([b'{"text":"a"}', b'{"text":'], "jsonl")
@example([b'["a",', b'"b"', b"]]"], "json")
@example([b"[" * 5000], "json")
def test_any_bytes_in_a_table_are_read_or_an_error_names_the_file(lines, suffix):
    with tempfile.TemporaryDirectory() as root:
        write(root, f"t.{suffix}".encode(), b"\n".join(lines))
        found, refused = read_or_refuse(f"{root}/t.{suffix}")
    assert f"t.{suffix}" in refused or not refused
    assert all(text.encode("utf-8") for _, text in found)


@fuzz
@given(
    rows=st.lists(st.none() | texts | st.binary(max_size=8), max_size=12),
    kind=st.sampled_from(["string", "large_string", "binary", "dictionary"]),
    size=st.integers(1, 5),
    suffix=st.sampled_from(list(PACK)),
)
def test_rows_of_parquet_are_their_texts_or_an_error_with_the_first_bad_one(rows, kind, size, suffix):
    if kind != "binary":
        rows = [row for row in rows if not isinstance(row, bytes)]
    column = pa.array(
        [row.encode() if kind == "binary" and isinstance(row, str) else row for row in rows],
        getattr(pa, kind)() if kind != "dictionary" else pa.string(),
    )
    expected = []
    for number, row in enumerate(rows):
        try:
            text = row.decode("utf-8") if isinstance(row, bytes) else row
        except UnicodeDecodeError:
            expected = number
            break
        expected += [(f"t.parquet{suffix}:{number}", text)] if text else []
    with tempfile.TemporaryDirectory() as root:
        path = os.path.join(root, "t.parquet")
        table = pa.table({"text": column.dictionary_encode() if kind == "dictionary" else column})
        pq.write_table(table, path, row_group_size=size)
        with open(path, "rb") as file:
            content = file.read()
        write(root, f"t.parquet{suffix}".encode(), PACK[suffix](content))
        found, refused = read_or_refuse(path + suffix)
    if isinstance(expected, int):
        assert f"t.parquet{suffix}, row {expected}:" in refused
    elif refused:
        assert f"t.parquet{suffix} has no text" in refused
        assert not rows
    else:
        assert found == expected
