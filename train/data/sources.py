"""Where text comes from: a path becomes units of reading, and a unit becomes documents with a name and exact bytes.

A unit is a stretch of one file that one worker reads in order: a whole text file, some lines of a jsonl file, a row
group of a parquet file. Listing units reads no more than it must; what it says never depends on the machine's load.
"""

from __future__ import annotations

import dataclasses
import glob
import itertools
import os
import pathlib
import sysconfig
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from model.errors import UserError
from train.data import tables
from train.data.config import Source

JSONL = (".jsonl", ".ndjson")
PARQUET = (".parquet",)
STDLIB = "stdlib"
HUGGING_FACE = "hf:"
# Folders of the standard library that hold its tests, or nothing of its own.
NOT_STDLIB = ("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__")
STDLIB_TEXT = (".py", ".txt", ".rst", ".html")


@dataclasses.dataclass(frozen=True)
class Unit:
    """Bytes [start, stop) of a file, or rows or row groups of a table; `first` is the number of its first document."""

    format: str  # "text", "jsonl", "parquet" or "hf"
    path: str
    name: str
    start: int
    stop: int
    first: int
    bytes: int
    field: str


@dataclasses.dataclass(frozen=True)
class Document:
    """A text under a name that finds it again: a path relative to its source, with `:line` where a file has many."""

    name: str
    text: str

    @property
    def num_bytes(self) -> int:
        """The length of its UTF-8, which is that of the original."""
        return len(self.text.encode("utf-8"))


def list_units(source: Source, bytes_per_unit: int = 4 << 20, bytes_per_text: int | None = 32 << 20) -> list[Unit]:
    """The units of a source in a fixed order. Raises UserError where there is nothing to read or no such thing.

    Text files longer than `bytes_per_text` are cut after line ends into documents of about that size, which processes
    can share; None leaves every file whole.
    """
    if source.path.startswith(HUGGING_FACE):
        return tables.hugging_face_units(source, bytes_per_unit)
    units: list[Unit] = []
    for path, name in list_files(source):
        if path.suffix in JSONL:
            units += _jsonl_units(path, name, source.field, bytes_per_unit)
        elif path.suffix in PARQUET:
            units += tables.parquet_units(path, name, source.field)
        else:
            units += _text_units(path, name, source.field, bytes_per_text)
    return units


def list_files(source: Source) -> list[tuple[pathlib.Path, str]]:
    """The files of a source that are not empty, each with its name, in the order of their names."""
    text = source.path
    path = pathlib.Path(text).expanduser()
    if text == STDLIB and not path.exists():
        return _stdlib_files()
    if path.is_file():
        if path.stat().st_size == 0:
            raise UserError(f"{text} is empty; expected a file with text in it")
        return [(path, path.name)]
    if path.is_dir():
        found, root = _walk(path), path
    elif glob.has_magic(text):
        matches = sorted(glob.glob(str(path), recursive=True))
        found = [pathlib.Path(m) for m in matches if os.path.isfile(m)]
        root = pathlib.Path(os.path.commonpath([f.parent for f in found])) if found else path
        if not found:
            raise UserError(f"the pattern {text!r} matches no file in {pathlib.Path.cwd()}")
    else:
        raise UserError(
            f"no such text: {text!r} (looked in {pathlib.Path.cwd()}); expected a file, a folder, a glob,"
            f" a dataset folder made by launch.tokenize, 'hf:NAME' for a Hugging Face dataset, or {STDLIB!r}"
        )
    named = [(f, f.relative_to(root).as_posix()) for f in found if f.stat().st_size]
    if not named:
        raise UserError(f"{text} holds no file with text in it")
    return sorted(named, key=lambda pair: pair[1])


def _walk(root: pathlib.Path) -> list[pathlib.Path]:
    found = []
    for folder, below, names in os.walk(root):
        below[:] = [b for b in below if not b.startswith(".") and b != "__pycache__"]
        found += [pathlib.Path(folder, name) for name in names if not name.startswith(".")]
    return [f for f in found if f.is_file()]


def _stdlib_files() -> list[tuple[pathlib.Path, str]]:
    """Python's own sources and documentation on this machine, without its tests and what others installed."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, below, names in os.walk(root):
        below[:] = [b for b in below if b not in NOT_STDLIB and not b.startswith("config-")]
        found += [pathlib.Path(folder, name) for name in names if name.endswith(STDLIB_TEXT)]
    readable = [(f, f.relative_to(root).as_posix()) for f in found if f.is_file() and _is_text(f)]
    if not readable:
        raise UserError(f"this Python keeps no sources of its standard library in {root}; give data.path another text")
    return sorted(readable, key=lambda pair: pair[1])


def _is_text(path: pathlib.Path) -> bool:
    # Nobody chose these files, so one that cannot be read is left out where elsewhere it would be an error.
    try:
        return bool(path.read_bytes().decode("utf-8"))
    except (UnicodeDecodeError, OSError):
        return False


def _text_units(path: pathlib.Path, name: str, field: str, size: int | None) -> list[Unit]:
    length = path.stat().st_size
    cuts = [0]
    if size is not None and length > size:
        with open(path, "rb") as file:
            cuts += [_line_end(file, at) for at in range(size, length, size)]
    return [
        Unit("text", str(path), f"{name} from byte {start}" if start else name, start, stop, 0, stop - start, field)
        for start, stop in itertools.pairwise([*cuts, length])
        if stop > start
    ]


def _line_end(file: BinaryIO, at: int) -> int:
    """The first place from `at` on where a line ends, or a character does in a line of more than a megabyte."""
    file.seek(at)
    line = file.readline(1 << 20)
    if line.endswith(b"\n") or len(line) < 1 << 20:
        return at + len(line)
    # Bytes 10xxxxxx go on with a character that has begun before.
    return at + next((k for k, byte in enumerate(line) if byte & 0xC0 != 0x80), 0)


def _jsonl_units(path: pathlib.Path, name: str, field: str, size: int) -> list[Unit]:
    """Cuts a jsonl file after line ends, about every `size` bytes, counting the lines on the way."""
    units, start, first, lines = [], 0, 1, 1
    with open(path, "rb") as file:
        while block := file.read(size):
            block += file.readline() if not block.endswith(b"\n") else b""
            lines += block.count(b"\n")
            stop = start + len(block)
            units.append(Unit("jsonl", str(path), name, start, stop, first, len(block), field))
            start, first = stop, lines
    return units


def read_unit(unit: Unit) -> Iterator[Document]:
    """The documents of a unit, in order. Raises UserError that names the file and the byte where it cannot be read."""
    if unit.format == "text":
        text = decode(read_bytes(unit.path, unit.start, unit.stop), unit.path, unit.start)
        if text:
            yield Document(unit.name, text)
    elif unit.format == "jsonl":
        yield from tables.read_jsonl(unit)
    elif unit.format == "parquet":
        yield from tables.read_parquet(unit)
    else:
        yield from tables.read_hugging_face(unit)


def read_bytes(path: str, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes [start, stop) of a file. Raises UserError when it cannot be read or has become shorter."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            content = file.read() if stop is None else file.read(stop - start)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; it was there when the sources were listed") from None
    if stop is not None and len(content) < stop - start:
        raise UserError(f"{path} ends at byte {start + len(content)}; it had {stop} when the sources were listed")
    return content


def decode(content: bytes, path: str, offset: int) -> str:
    """UTF-8 as text. Raises UserError that names the file and the byte offset of what is no UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 at byte {offset + error.start} (found 0x{content[error.start]:02x}, {error.reason});"
            " convert it (iconv -f OLD -t UTF-8), or leave it out with a narrower path such as 'folder/**/*.txt'"
        ) from None


def fingerprint(units: list[Unit]) -> str:
    """A short hash of what a source holds: names, sizes, and the first and last 64 KiB of each file."""
    value = 0
    seen = set()
    for unit in units:
        value = zlib.crc32(repr((unit.format, unit.name, unit.start, unit.stop, unit.field)).encode(), value)
        if unit.path not in seen and unit.format != "hf":
            seen.add(unit.path)
            with open(unit.path, "rb") as file:
                value = zlib.crc32(file.read(1 << 16), value)
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size - (1 << 16)))
                value = zlib.crc32(file.read(1 << 16), value)
    return f"{value:08x}"
