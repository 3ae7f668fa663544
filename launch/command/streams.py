"""Standard output and standard error that never raise: a failing terminal must not end a run.

A closed pipe, a terminal that went away, a full disk under a redirected log, a stream that was closed before the
command began, an encoding without the character: none of them raises. The run folder is the record of a run.
"""

import codecs
import contextlib
import errno
import io
import json
import os
import select
import sys
from typing import Any, TextIO

_ESCAPE = "escape_and_remember"
_escaped = False  # whether a character of standard output had to be written as an escape


class ReaderGoneError(Exception):
    """Nobody reads standard output any more. This is not a mistake, and the command may stop writing."""


class _NonRaisingFile(io.FileIO):
    """The lowest layer of a stream: data that cannot be written goes to another descriptor, or is dropped.

    Attributes:
      error: the first failure; None before any.
    """

    def __init__(self, descriptor: int, fallback: int | None) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.error: OSError | None = None
        self._fallback = fallback

    def write(self, data: Any, /) -> int:
        """Writes the data and returns its size in bytes, even when a write fails; `error` then holds the failure."""
        rest = memoryview(data).cast("B")
        size = rest.nbytes
        try:
            while rest:
                if (written := super().write(rest)) is None:  # a terminal that another program made non-blocking
                    select.select([], [self.fileno()], [])
                rest = rest[written or 0 :]
        except OSError as error:
            if self.error is None:
                self.error = error
            if self._fallback is not None and error.errno != errno.EPIPE:
                _write_all(self._fallback, bytes(rest))
        return size


def _write_all(descriptor: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody is left to tell
        while data:
            data = data[os.write(descriptor, data) :]


def replace_output_streams() -> None:
    """Replaces the process's output streams by streams that never raise; streams that a program redirected stay."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file to be opened would get its number, and all printed text
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error(_ESCAPE, _escape)
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _non_raising_stream(1, sys.stdout, fallback=2)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _non_raising_stream(2, sys.stderr, fallback=None)


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    global _escaped
    _escaped = True
    return codecs.backslashreplace_errors(error)


def _non_raising_stream(descriptor: int, previous: TextIO | None, fallback: int | None) -> TextIO:
    """A line-buffered stream, so that a killed process has shown its lines; unbuffered where Python's stream is."""
    encoding, through = "utf-8", False
    errors = _ESCAPE if descriptor == 1 else "backslashreplace"
    if isinstance(previous, io.TextIOWrapper):
        encoding, through = previous.encoding, previous.write_through
        if previous.errors not in ("strict", "surrogateescape"):  # the user chose another error handler
            errors = previous.errors or errors
        with contextlib.suppress(OSError):
            previous.flush()
    file = _NonRaisingFile(descriptor, fallback)
    return io.TextIOWrapper(
        file if through else io.BufferedWriter(file),
        encoding=encoding,
        errors=errors,
        line_buffering=True,
        write_through=through,
    )


def as_json(value: object) -> str:
    """A value as JSON that standard output can encode; where a character is missing, all non-ASCII is escaped."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # even with UTF-8: a name that is not UTF-8 holds lone surrogates
        return json.dumps(value, indent=1)
    return text


def check_reader() -> None:
    """Raises ReaderGoneError when standard output is a pipe that nobody reads any more."""
    error = _stdout_error()
    if error is not None and error.errno == errno.EPIPE:
        raise ReaderGoneError


def output_error() -> OSError | None:
    """The error that kept printed text from standard output; None without one, or if the reader closed the pipe."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.flush()
    error = _stdout_error()
    return error if error is not None and error.errno != errno.EPIPE else None


def _stdout_error() -> OSError | None:
    buffer = getattr(sys.stdout, "buffer", None)
    error = getattr(getattr(buffer, "raw", buffer), "error", None)
    return error if isinstance(error, OSError) else None


def escape_note() -> str | None:
    """A line for the end of a command: some characters were escaped, and how to see them; None when none were."""
    if not _escaped:
        return None
    return (
        f"note: the encoding of standard output, {sys.stdout.encoding}, lacks some characters; they are written as "
        "escapes such as \\xe9. PYTHONIOENCODING=utf-8 writes the characters themselves"
    )
