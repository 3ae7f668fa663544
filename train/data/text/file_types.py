"""The format of a file, by its suffix in any case; and a name for the content of a file that is not text."""

from __future__ import annotations

import codecs
import dataclasses
import os

from train.data.text.compression import compression_of

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}
# The number of bytes at the head of a file that are examined.
HEAD = 4096
UTF8_MARK = codecs.BOM_UTF8
# A byte order mark of UTF-32 begins with a mark of UTF-16, so the longer marks come first.
_UNICODE_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_PACKED = "data under another name; unpack it if it is an archive, else give the file its suffix"
# No text begins with these.
_NEVER_TEXT = (
    (b"\x1f\x8b", f"gzip {_PACKED} .gz"),
    (b"\x28\xb5\x2f\xfd", f"zstd {_PACKED} .zst"),
    (b"\xfd7zXZ\0", f"xz {_PACKED} .xz"),
    (b"\x1f\x9d", "data packed by compress, as .Z files are; unpack it, or pack it with gzip or zstd instead"),
    (b"]\0\0", "data of lzma's old format, as .lzma files are; unpack it, or pack it with xz instead"),
    (b"PK\x03\x04", "a zip archive, as .docx, .xlsx, .epub, .npz and .pt files are too; take the text out of it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"Rar!\x1a\x07", "a rar archive; unpack it"),
    (b"%PDF-", "a PDF document; take the text out of it"),
    (b"{\\rtf1", "an RTF document; save it as plain text"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of Microsoft Office; save it as plain text"),
    (b"\x89PNG\r\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x93NUMPY", "a NumPy array; only text can be read, not tokens"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"SQLite format 3\0", "an SQLite database; export the text as .jsonl"),
    (b"\x7fELF", "a program"),
    (b"Obj\x01", "an Avro file; convert it to .parquet or .jsonl"),
    (b"\x04\x22\x4d\x18", "lz4 data; compress it with gzip or zstd instead"),
)
# A text may begin with these too: they count only where the content is not text.
_MAYBE_TEXT = (
    (b"BZh", f"bzip2 {_PACKED} .bz2"),
    (b"PAR1", "a parquet table under another name; give the file the suffix .parquet"),
    (b"ARROW1", "an Arrow table; convert it to .parquet"),
    (b"GIF8", "a GIF picture"),
    (b"RIFF", "a picture, a sound or a film"),
    (b"OggS", "a sound or a film"),
    (b"ID3", "a sound"),
)


@dataclasses.dataclass(frozen=True)
class FileType:
    """How a file is read: "text", "jsonl", "json" or "parquet", and its compression, None when it has none."""

    format: str
    compression: str | None


def file_type_of(name: str) -> FileType:
    """The kind of a file by the suffixes of its name, in any case."""
    stem, compression = compression_of(name)
    return FileType(FORMATS.get(os.path.splitext(stem)[1].lower(), "text"), compression)


def not_text(head: bytes) -> str | None:
    """A name for content that is not UTF-8, and how to fix it, given the first HEAD bytes; None for text."""
    for mark, name in _UNICODE_MARKS:
        if head.startswith(mark):
            return f"{name} text; convert it: iconv -f {name} -t UTF-8"
    for magic, name in _NEVER_TEXT:
        if head.startswith(magic):
            return name
    if head[257:262] == b"ustar" and b"\0" in head[:257]:
        return "a tar archive; unpack it"
    zeros = head.count(0)
    binary = zeros * 4 >= len(head) >= 8
    if binary or not _is_utf8(head):
        for magic, name in _MAYBE_TEXT:
            if head.startswith(magic):
                return name
    if binary and zeros < len(head) and _is_wide(head):
        return "UTF-16 or UTF-32 text without a mark; convert it: iconv -f UTF-16LE -t UTF-8, or UTF-16BE, UTF-32LE"
    if binary:
        return f"binary data: {zeros} of the first {len(head)} bytes are zero"
    return None


def looks_binary(content: bytes) -> bool:
    """Whether bytes that are not UTF-8 are not text in another encoding either: they hold control characters."""
    return any(byte < 32 and byte not in b"\t\n\v\f\r\x1b" for byte in content)


def _is_utf8(head: bytes) -> bool:
    """Whether bytes are UTF-8; the last character may be cut off."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _is_wide(head: bytes) -> bool:
    """Whether the zero bytes are where Latin letters have them in UTF-16 or UTF-32."""
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        try:
            text = head[: len(head) // 4 * 4].decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text and all(c.isprintable() or c.isspace() for c in text):
            return True
    return False
