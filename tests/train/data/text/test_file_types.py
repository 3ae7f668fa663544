import io
import lzma
import tarfile
import zipfile

import numpy as np
import pytest

from train.data.text.file_types import FileType, file_type_of, looks_binary, not_text


@pytest.mark.parametrize(
    ("name", "format", "compression"),
    [
        ("a.txt", "text", None),
        ("a", "text", None),
        ("a.JSONL", "jsonl", None),
        ("a.ndjson", "jsonl", None),
        ("a.Json", "json", None),
        ("a.PARQUET", "parquet", None),
        ("a.jsonl.gz", "jsonl", "gzip"),
        ("A.JSON.GZ", "json", "gzip"),
        ("a.parquet.bz2", "parquet", "bzip2"),
        ("a.md.xz", "text", "xz"),
        ("a.jsonl.zst", "jsonl", "zstd"),
        ("a.gz", "text", "gzip"),
        ("a.jsonl.txt", "text", None),
        ("jsonl", "text", None),
    ],
)
def test_suffixes_in_any_case(name, format, compression):
    assert file_type_of(name) == FileType(format, compression)


def packed(kind):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("word/document.xml", "<w/>")
    elif kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            info = tarfile.TarInfo("a.txt")
            info.size = 5
            archive.addfile(info, io.BytesIO(b"words"))
    else:
        np.save(buffer, np.arange(10))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (packed("zip"), "zip archive"),
        (packed("tar"), "tar archive"),
        (packed("npy"), "NumPy array"),
        (b"%PDF-1.7\n1 0 obj", "PDF"),
        (b"\x89PNG\r\n\x1a\n\0\0", "PNG"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"GIF89a\x80\0", "GIF"),
        (b"\x1f\x8b\x08\0", "gzip data under another name.*suffix .gz"),
        (b"\x28\xb5\x2f\xfd\0", "zstd"),
        (b"BZh91AY&SY\xff", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (lzma.compress(b"words", format=lzma.FORMAT_ALONE), "lzma's old format.*pack it with xz"),
        (b"\x1f\x9d\x90w\xde", "compress, as .Z files.*pack it with gzip"),
        (b"PAR1\x15\x04\x80", "parquet table.*suffix .parquet"),
        ("Zeile ö\n".encode("utf-16"), "iconv -f UTF-16 "),
        (b"\xfe\xff" + "Zeile".encode("utf-16-be"), "iconv -f UTF-16 "),
        ("Zeile".encode("utf-32"), "iconv -f UTF-32 "),
        ("eine Zeile".encode("utf-16-le"), "UTF-16 or UTF-32 text without a mark"),
        ("eine Zeile".encode("utf-32-be"), "UTF-16 or UTF-32 text without a mark"),
        (np.arange(50, dtype="<u2").tobytes(), "binary data: 51 of the first 100 bytes are zero"),
        (bytes(100), "binary data"),
    ],
)
def test_other_content_is_named(content, said):
    assert __import__("re").search(said, not_text(content))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "\0",
        "a\0b",
        "\ufeffwith a mark",
        "ID3 is an algorithm that grows trees",
        "GIF89a, PAR1 and RIFF are formats",
        "BZh is no word",
        "words\0with one zero",
        "ö" * 4000,
        "一二三四",
    ],
)
def test_text_is_text(text):
    content = text.encode()
    assert not_text(content) is None
    assert not_text(content[:4095]) is None  # perhaps in the middle of a character


def test_control_characters_tell_binary_data_from_old_encodings():
    assert not looks_binary("früher\r\n\tstand hier\f".encode("latin-1"))
    assert looks_binary(bytes(range(1, 256)))
