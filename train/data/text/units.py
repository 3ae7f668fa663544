"""A unit of reading and a document, and what is said of files: names that print everywhere, changes noticed."""

from __future__ import annotations

import dataclasses
import os

from model.errors import UserError
from train.run.formatting import visible


@dataclasses.dataclass(frozen=True)
class Unit:
    """Bytes [start, stop) of the text in a file, or rows or row groups of a table.

    Attributes:
      format: "text", "jsonl", "json", "parquet" or "hf".
      path: of the file.
      name: of its documents.
      start, stop: in bytes of the decompressed file; in row groups of parquet, in rows of hf.
      first: the number of the first row.
      bytes: about so many bytes of text.
      field: the one that holds the text, in tables.
      stamp: of the file when it was listed, see `stamp`; empty where there is no file.
    """

    format: str
    path: str
    name: str
    start: int
    stop: int
    first: int
    bytes: int
    field: str
    stamp: str = ""


@dataclasses.dataclass(frozen=True)
class Document:
    """A text under a name that finds it again: a path relative to its source, with `:line` where a file has many."""

    name: str
    text: str

    @property
    def num_bytes(self) -> int:
        """The length of its UTF-8, which is that of the original."""
        return len(self.text.encode("utf-8"))


def readable(path: str | os.PathLike[str]) -> str:
    """A path as text that can be printed and encoded: the same in every locale, whatever bytes the name has."""
    try:
        text = os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # characters that no file name of this machine can have
        text = os.fspath(path)
    return visible(text)


def stamp(path: str) -> str:
    """Changes when the file does. Raises UserError when there is none any more."""
    try:
        about = os.stat(path)
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from None
    return f"{about.st_dev}-{about.st_ino}-{about.st_size}-{about.st_mtime_ns}"


def refuse_changed(unit: Unit) -> None:
    """Raises UserError when the file of a unit is no longer the one that was listed."""
    if unit.stamp and stamp(unit.path) != unit.stamp:
        raise UserError(
            f"{readable(unit.path)} has changed since the text was listed; give the command again when nothing writes"
            " to it any more"
        )


def cannot_read(path: str | os.PathLike[str], error: Exception) -> UserError:
    """The error for a file or folder that the system does not let us read."""
    why = getattr(error, "strerror", None) or error
    return UserError(f"{readable(path)} cannot be read: {why}; mend that, or leave it out with a narrower path")
