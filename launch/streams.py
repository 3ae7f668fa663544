"""Standard output and standard error that nothing can break: what happens to a terminal is no part of a run.

A closed pipe, a terminal that went away, a full disk under a redirected log, a stream that was closed before the
command began, an encoding without the character: none of them raises. The record of a run is its folder.
"""

import contextlib
import errno
import io
import json
import os
import select
import sys
from typing import Any, TextIO


class _Steady(io.FileIO):
    """The lowest layer of a stream: what cannot be written is passed on to another descriptor, or dropped.

    Attributes:
      error: the first failure, None while there was none.
    """

    def __init__(self, descriptor: int, instead: int | None) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.error: OSError | None = None
        self._instead = instead

    def write(self, data: Any, /) -> int:
        """Writes the data, and says so when it cannot be written."""
        left = memoryview(data).cast("B")
        size = left.nbytes
        try:
            while left:
                if (written := super().write(left)) is None:  # a terminal that another program told not to wait
                    select.select([], [self.fileno()], [])
                left = left[written or 0 :]
        except OSError as error:
            if self.error is None:
                self.error = error
            if self._instead is not None and error.errno != errno.EPIPE:
                _write_all(self._instead, bytes(left))
        return size


def _write_all(descriptor: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody is left to tell
        while data:
            data = data[os.write(descriptor, data) :]


def guard() -> None:
    """Puts unbreakable streams in the place of the process's own; streams that a program redirected stay."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed, so that the next file to be opened would get its number, and what others print
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _steady(1, sys.stdout, instead=2)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _steady(2, sys.stderr, instead=None)


def _steady(descriptor: int, before: TextIO | None, instead: int | None) -> TextIO:
    """A stream line by line, so that a killed process has said what it printed; each write by itself if Python's is."""
    encoding, through = "utf-8", False
    if isinstance(before, io.TextIOWrapper):
        encoding, through = before.encoding, before.write_through
        with contextlib.suppress(OSError):
            before.flush()
    steady = _Steady(descriptor, instead)
    return io.TextIOWrapper(
        steady if through else io.BufferedWriter(steady),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=True,
        write_through=through,
    )


def as_json(value: object) -> str:
    """A value as JSON that standard output has the characters for."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return json.dumps(value, indent=1, ensure_ascii=encoding.lower().replace("-", "") != "utf8")


def lost() -> OSError | None:
    """Why standard output did not take all that was printed; None if it did, or if its reader had enough."""
    if not isinstance(sys.stdout, io.TextIOWrapper):
        return None
    sys.stdout.flush()
    error = getattr(getattr(sys.stdout.buffer, "raw", sys.stdout.buffer), "error", None)
    return error if isinstance(error, OSError) and error.errno != errno.EPIPE else None
