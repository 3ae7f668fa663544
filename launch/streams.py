r"""Standard output and standard error that no character and no closed pipe can break.

A character that the encoding of a stream lacks is written as Python writes it in a string (`\xe9`, `\u4e2d`). A write
that fails (the reader of a pipe is gone, the terminal is closed, the disk is full) is remembered and raises nothing, so
that work whose record is a folder goes on; a command whose result is its output asks with `check`.
"""

import codecs
import errno
import io
import json
import os
import select
import sys
from typing import Any, TextIO

from model.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ESCAPE = "escape_and_remember"
_escaped = False  # whether a character of standard output had to be written as an escape


class ReaderGoneError(Exception):
    """Nobody reads standard output any more: no mistake, and no reason to go on for its sake."""


class _Descriptor(io.FileIO):
    """A descriptor whose failing writes are remembered: the first failure is kept, and nothing is written after it."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes as a file does, and waits where a terminal was left in non-blocking mode."""
        if self.failure is None:
            try:
                while (written := super().write(data)) is None:
                    select.select([], [self.fileno()], [])
                return written
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


def prepare() -> None:
    """Makes `sys.stdout` and `sys.stderr` safe, and opens what of the three standard streams the caller had closed.

    An open file would get a closed stream's number, and the messages of a library would be written into it. Streams
    that somebody else has put there, such as a test, stay.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    codecs.register_error(_ESCAPE, _escape)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):  # None where it was closed
            setattr(sys, name, _safe(stream, descriptor, _ESCAPE if name == "stdout" else "backslashreplace"))


def _safe(stream: TextIO | None, descriptor: int, errors: str) -> io.TextIOWrapper:
    if isinstance(stream, io.TextIOWrapper):
        stream.flush()
        if stream.errors not in ("strict", "surrogateescape"):  # the user asked for another treatment
            errors = stream.errors or errors
        settings: dict[str, Any] = {"encoding": stream.encoding, "line_buffering": stream.line_buffering}
        settings["write_through"] = stream.write_through
    else:
        settings = {"encoding": "utf-8", "line_buffering": descriptor == 2}
    buffer = io.BufferedWriter(_Descriptor(descriptor, "wb", closefd=False))
    return io.TextIOWrapper(buffer, errors=errors, newline="\n", **settings)


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    global _escaped
    _escaped = True
    return codecs.backslashreplace_errors(error)


def check() -> None:
    """Sees that all of standard output so far was taken.

    Raises ReaderGoneError when nobody reads it any more, and UserError when the disk that it goes to is full.
    """
    sys.stdout.flush()
    failure = getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "failure", None)
    if failure is None:
        return
    if failure.errno in _FULL:
        raise UserError(
            f"standard output could not be written: {failure.strerror}; make room there, then give the same command "
            "again"
        )
    raise ReaderGoneError


def note() -> str | None:
    """For the end of a command: that characters had to be escaped, and how to see them; None when none were."""
    if not _escaped:
        return None
    return (
        f"note: the encoding of standard output, {sys.stdout.encoding}, lacks some characters; they stand there as "
        "escapes such as \\xe9. PYTHONIOENCODING=utf-8 writes them as they are"
    )


def print_json(value: object) -> None:
    """Prints a value as JSON that any reader takes: characters that standard output lacks as JSON's own escapes."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=1, allow_nan=False)
    print(text)
