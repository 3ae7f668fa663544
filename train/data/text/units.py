"""Units of reading and documents; printable names of files, and a check whether a file has changed."""

from __future__ import annotations

import dataclasses
import os
from typing import NamedTuple

from model.errors import UserError
from train.terminal.formatting import escape_unprintable


@dataclasses.dataclass(frozen=True)
class Unit:
    """Bytes [start, stop) of the text in a file, or rows or row groups of a table.

    Attributes:
      format: "text", "jsonl", "json", "parquet" or "hf".
      path: the path of the file.
      name: the name of its documents.
      start, stop: bytes of the decompressed file; row groups of parquet; rows of hf.
      first: the number of the first row.
      bytes: the approximate number of bytes of text.
      field: the field that holds the text, in tables.
      file_version: that of the file when it was listed, see `file_version`; empty where there is no file.
    """

    format: str
    path: str
    name: str
    start: int
    stop: int
    first: int
    bytes: int
    field: str
    file_version: str = ""


class LabelField(NamedTuple):
    """A field of tables whose value is kept beside the text of each row.

    Attributes:
      name: the field.
      required: whether a table or a row without it is an error; otherwise its documents have no label.
    """

    name: str
    required: bool


@dataclasses.dataclass(frozen=True)
class Document:
    """A text with a name by which to find it: a path relative to its source, with `:line` where a file has many.

    `label` is the value of the requested `LabelField` of its row, or None.
    """

    name: str
    text: str
    label: str | None = None

    @property
    def num_bytes(self) -> int:
        """The length of its UTF-8 in bytes, as in the original."""
        return len(self.text.encode("utf-8"))


def printable(path: str | os.PathLike[str]) -> str:
    """A path as text that can be printed and encoded: the same in every locale, whatever bytes the name has."""
    try:
        text = os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # characters that no file name of this machine can have
        text = os.fspath(path)
    return escape_unprintable(text)


def file_version(path: str) -> str:
    """A text that changes when the file changes. Raises UserError when the file is gone."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from None
    return f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


def refuse_changed(unit: Unit) -> None:
    """Raises UserError when the file of a unit has changed since it was listed."""
    if unit.file_version and file_version(unit.path) != unit.file_version:
        raise UserError(
            f"{printable(unit.path)} has changed since the text was listed; give the command again when no program"
            " writes to it any more"
        )


def cannot_read(path: str | os.PathLike[str], error: Exception) -> UserError:
    """The error for a file or folder that the system refuses to read."""
    why = getattr(error, "strerror", None) or error
    return UserError(f"{printable(path)} cannot be read: {why}; fix that, or leave it out with a narrower path")
