"""Files that a killed process leaves whole: lines appended all or nothing, and files replaced at one instant."""

import os
import pathlib

from model.errors import UserError


class LineFile:
    """A file that grows by whole lines: an append that fails half-way is taken back.

    Opening drops a half-written last line. Raises UserError when the file cannot be written.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            self._end = os.fstat(self._descriptor).st_size
            self._drop_torn_line()
        except OSError as error:
            raise _cannot_write(path, error) from error

    def _drop_torn_line(self) -> None:
        """What follows the last line break was being written when a process died."""
        start = max(0, self._end - 1_000_000)
        tail = os.pread(self._descriptor, self._end - start, start)
        torn = len(tail) - (tail.rfind(b"\n") + 1)
        if torn:
            self._end -= torn
            os.ftruncate(self._descriptor, self._end)

    def append(self, data: bytes) -> None:
        """Adds whole lines: the system has them on return, and a killed process loses none of them."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            raise _cannot_write(self._path, error) from error
        self._end += len(data)

    def sync(self) -> None:
        """Returns when the disk has what was appended: a machine that loses power loses none of it."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def close(self) -> None:
        """Closes the file; nothing is appended afterwards."""
        os.close(self._descriptor)


def replace_file(path: pathlib.Path, data: bytes) -> None:
    """Gives a file new content at one instant; returns when the disk has it. Raises UserError when it cannot."""
    temporary = path.with_name(path.name + ".new")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _cannot_write(path, error) from error


def _cannot_write(path: pathlib.Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path}: {error.strerror or error}. Make room or mend the folder, then give the same command "
        "again: it goes on from what is whole"
    )
