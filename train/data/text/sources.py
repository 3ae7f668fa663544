"""Sources of text: a path becomes units of reading, and a unit becomes documents with a name and the exact text.

A unit is a part of one file that one worker reads in order: a whole text file, some lines of a jsonl file, a row
group of a parquet file. Listing units reads no more than necessary, which is all of a compressed file; its result never
depends on the machine's load.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from model.errors import UserError
from train.data.config import Source
from train.data.text.compression import open_bytes, read_range
from train.data.text.file_types import HEAD, UTF8_MARK, file_type_of, not_text
from train.data.text.files import list_files
from train.data.text.hub import PREFIX, hub_units, read_hub
from train.data.text.parquet import parquet_units, read_parquet
from train.data.text.rows import JsonValues, raise_not_utf8, read_array, read_lines
from train.data.text.units import Document, LabelField, Unit, cannot_read, file_version, printable, refuse_changed

__all__ = ["Document", "LabelField", "Unit", "fingerprint", "list_files", "list_units", "printable", "read_unit"]

Say = Callable[[str], None]
# About the size of the documents into which long text files are cut.
BYTES_PER_DOCUMENT = 32 << 20


def list_units(
    source: Source,
    bytes_per_unit: int = 4 << 20,
    bytes_per_document: int | None = BYTES_PER_DOCUMENT,
    say: Say | None = None,
) -> list[Unit]:
    """The units of a source in a fixed order. Raises UserError where the source does not exist or holds no text.

    Text files longer than `bytes_per_document` are cut after line ends into documents of about that size, so that
    processes can share them; None leaves every file whole. `say` is called with a line about files of the source that
    were left out.
    """
    if source.path.startswith(PREFIX):
        units = hub_units(source.path, source.field, bytes_per_unit)
    else:
        listing = list_files(source.path)
        units, problems = [], {}
        for path, name in listing.files:
            found = _units_of_file(path, name, source.field, bytes_per_unit, bytes_per_document)
            if isinstance(found, str):
                problems[name] = found
            else:
                units += found
        if problems:
            raise _not_text_error(
                listing.files[0][0] if len(listing.files) == 1 else source.path, len(listing.files), problems
            )
        if listing.left_out is not None and say is not None:
            say(listing.left_out)
    if not units:
        raise UserError(f"{printable(source.path)} has no text in it: it has no rows, or only empty files")
    return units


def _not_text_error(text: str, num_files: int, problems: dict[str, str]) -> UserError:
    """The error for files that hold neither text nor a table, given a name for the content of each."""
    if num_files == 1:
        return UserError(f"{printable(text)} is not UTF-8 text, but {next(iter(problems.values()))}")
    fix = "fix them, or leave them out with a narrower path such as 'folder/**/*.txt'"
    lines = [f"{name}: {problem}" for name, problem in list(problems.items())[:5]]
    more = [f"and {len(problems) - 5:,} more"] if len(problems) > 5 else []
    return UserError("\n  ".join([f"{printable(text)} holds files that are not UTF-8 text; {fix}:", *lines, *more]))


def _units_of_file(path: str, name: str, field: str, size: int, bytes_per_document: int | None) -> list[Unit] | str:
    """The units of a file, or a name for its content where it is not text."""
    file_type = file_type_of(path)
    if file_type.format == "parquet":
        return parquet_units(path, name, field)
    version = file_version(path)
    with open_bytes(path) as file, _read_errors(path):
        head = file.read(HEAD)
        problem = not_text(head)
        if problem is not None:
            return problem
        start = len(UTF8_MARK) if head.startswith(UTF8_MARK) else 0
        file.seek(start)
        if file_type.format == "jsonl":
            units = _jsonl_units(file, path, name, field, start, size)
        elif file_type.format == "json":
            units = _json_units(file, path, name, field, start, size)
        else:
            units = _text_units(file, path, name, field, start, bytes_per_document)
    units = [dataclasses.replace(unit, file_version=version) for unit in units]
    for unit in units[:1]:
        refuse_changed(unit)
    return units


@contextlib.contextmanager
def _read_errors(path: str) -> Iterator[None]:
    """Turns errors of the system into UserErrors that name the file."""
    try:
        yield
    except OSError as error:
        raise cannot_read(path, error) from None


def _text_units(file: BinaryIO, path: str, name: str, field: str, start: int, size: int | None) -> list[Unit]:
    starts = [start]
    if size is not None:
        for at in itertools.count(size, size):
            # Seeking beyond the end succeeds in a plain file, and stops at the end in a decompressed file.
            if file.seek(at) < at or not file.read(1):
                break
            file.seek(at)
            starts.append(at + _line_end(file))
    length = file.seek(0, os.SEEK_END)
    return [
        Unit("text", path, f"{name} from byte {begin}" if begin > start else name, begin, stop, 0, stop - begin, field)
        for begin, stop in itertools.pairwise([*starts, length])
        if stop > begin
    ]


def _line_end(file: BinaryIO) -> int:
    """The number of bytes to the end of the line, or to the end of a character in a line of more than a megabyte."""
    line = file.readline(1 << 20)
    if line.endswith(b"\n") or len(line) < 1 << 20:
        return len(line)
    # Bytes 10xxxxxx continue a character that began earlier.
    return next((k for k, byte in enumerate(line) if byte & 0xC0 != 0x80), 0)


def _jsonl_units(file: BinaryIO, path: str, name: str, field: str, start: int, size: int) -> list[Unit]:
    """Cuts a jsonl file after line ends, about every `size` bytes, counting the lines on the way."""
    units, first, lines = [], 1, 1
    while block := file.read(size):
        block += file.readline() if not block.endswith(b"\n") else b""
        lines += block.count(b"\n")
        stop = start + len(block)
        units.append(Unit("jsonl", path, name, start, stop, first, len(block), field))
        start, first = stop, lines
    return units


def _json_units(file: BinaryIO, path: str, name: str, field: str, start: int, size: int) -> list[Unit]:
    """Cuts a .json file between items, about every `size` bytes, counting the items on the way."""
    units, first = [], 1
    values = JsonValues(file, path, start)
    stop = start
    for _, stop in values:
        if stop - start >= size:
            units.append(Unit("json", path, name, start, stop, first, stop - start, field))
            start, first = stop, values.number + 1
    if stop > start:
        units.append(Unit("json", path, name, start, stop, first, stop - start, field))
    return units


def read_unit(unit: Unit, label: LabelField | None = None) -> Iterator[Document]:
    """The documents of a unit, in order; those of tables with the label that is asked for.

    With a label, rows that have one and no text are documents too: empty ones. Raises UserError that names the file,
    and the byte, line or row in it, where text cannot be read; and when the file has changed since it was listed.
    """
    if unit.format == "hf":
        yield from read_hub(unit, label)
        return
    refuse_changed(unit)
    if unit.format == "parquet":
        yield from read_parquet(unit, label)
        return
    content = read_range(unit.path, unit.start, unit.stop)
    if len(content) < unit.stop - unit.start:
        raise UserError(
            f"{printable(unit.path)} ends at byte {unit.start + len(content)}; it had {unit.stop} when it was listed"
        )
    refuse_changed(unit)
    if unit.format == "jsonl":
        yield from read_lines(unit, content, label)
    elif unit.format == "json":
        yield from read_array(unit, content, label)
    else:
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise_not_utf8(error, unit.path, unit.start)
        if text:
            yield Document(unit.name, text)


def fingerprint(units: list[Unit]) -> str:
    """A short hash of a source: the names and sizes of its units, and the first and last 64 KiB of each file."""
    value = 0
    seen = set()
    for unit in units:
        value = zlib.crc32(repr((unit.format, unit.name, unit.start, unit.stop, unit.field)).encode(), value)
        if unit.path not in seen and unit.format != "hf":
            seen.add(unit.path)
            try:
                with open(unit.path, "rb") as file:
                    value = zlib.crc32(file.read(1 << 16), value)
                    size = os.fstat(file.fileno()).st_size
                    file.seek(max(0, size - (1 << 16)))
                    value = zlib.crc32(file.read(1 << 16), value)
            except OSError as error:
                raise cannot_read(unit.path, error) from None
    return f"{value:08x}"
