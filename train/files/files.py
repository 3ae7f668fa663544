"""Files that a killed process leaves whole: lines appended all or nothing, files and folders that come at one instant.

This is the one place that renames, syncs and locks. Errors name the file and say how to go on.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from model.errors import UserError
from train.files.forms import misfits
from train.files.paths import AnyPath

DEEPEST = 100  # levels of a JSON value, several times what is written here

# After a fault that says nothing of what lies on the disk: a permission, a disk that does not answer, a library.
AS_IT_WAS = "nothing was changed: mend that, then give the same command again"


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
            raise cannot_write(path, error) from error

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
            raise cannot_write(self._path, error) from error
        self._end += len(data)

    def sync(self) -> None:
        """Returns when the disk has what was appended: a machine that loses power loses none of it."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        """Closes the file; nothing is appended afterwards."""
        os.close(self._descriptor)


def unfinished(path: pathlib.Path, mark: str = "") -> pathlib.Path:
    """The hidden name that a file or folder has beside its path until it is finished.

    It is short whatever the name is: with anything added to it, a name of 250 bytes would be too long.
    """
    return path.parent / f".{zlib.crc32(os.fsencode(path.name)):08x}{mark}.part"


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of `path` at one instant, when the disk has it.

    Raises UserError when it cannot be written; then what was there before is untouched.
    """
    temporary = unfinished(path, f".{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
        take_place(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # there is none where it could not be made
            temporary.unlink()


def take_place(finished: pathlib.Path, path: pathlib.Path) -> None:
    """Gives a finished file or folder its name at one instant; the disk has a file before, and the name afterwards."""
    if not finished.is_dir():
        _sync(finished)
    os.replace(finished, path)
    _sync(path.parent)


def _sync(path: pathlib.Path) -> None:
    """Returns when the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def filled(path: pathlib.Path, mark: str = "") -> Iterator[pathlib.Path]:
    """A folder to fill, which takes the name `path` when all is written; there must be none, or an empty one.

    Processes and threads that may make the same folder at the same time each give a mark. A call that was interrupted
    leaves no such folder. Raises OSError.
    """
    part = unfinished(path, mark)
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        take_place(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def set_aside(path: pathlib.Path, target: pathlib.Path) -> None:
    """Moves a file or folder out of the way; what has the new name already is removed."""
    if path.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
    os.replace(path, target)


class HeldError(Exception):
    """Another process holds a lock; `owner` is its number, or "unknown"."""

    def __init__(self, owner: str) -> None:
        super().__init__(f"held by process {owner}")
        self.owner = owner


@contextlib.contextmanager
def lock(path: pathlib.Path, *, wait: bool) -> Iterator[None]:
    """Holds a lock, which goes with the process; the file has the process's number.

    Raises HeldError when another process holds it and this one does not wait, and OSError when the file cannot be made
    or its file system has no locks.
    """
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise HeldError(file.read().strip() or "unknown") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def replace_file(path: pathlib.Path, data: bytes) -> None:
    """Gives a file new content, whole or not at all; see `replaced`."""
    with replaced(path) as file:
        file.write(data)


def write_json(path: pathlib.Path, value: object) -> None:
    """Writes a JSON file, whole or not at all."""
    replace_file(path, (json.dumps(value, indent=2) + "\n").encode())


def write_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes an array as .npy, whole or not at all."""
    with replaced(path) as file:
        np.save(file, array, allow_pickle=False)


def read_json(path: AnyPath, mend: str = "delete it and make it again", form: Any = dict) -> dict[str, Any]:
    """The JSON object in a file, of a form of `train.files.forms`.

    Raises UserError that names the file, where it is damaged, and how to mend it, or why it cannot be read.
    """
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: expected JSON, got {error}; {mend}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: expected a JSON object, got {type(value).__name__}; {mend}")
    for misfit in misfits(value, form):
        raise UserError(f"{path} is damaged: {misfit}; {mend}")
    return value


def parse_json(data: bytes | str) -> Any:
    """The value that JSON text stands for. Raises ValueError for any other text, and for values nested too deeply.

    Whoever walks through a value calls functions in functions, of which Python has no more than a thousand.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("values nested too deeply") from None
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inside
            for outside in level
            if isinstance(outside, (dict, list))
            for inside in (outside.values() if isinstance(outside, dict) else outside)
        ]
        if not level:
            return value
    raise ValueError(f"values nested more than {DEEPEST} deep")


def cannot_read(path: AnyPath, error: Exception) -> UserError:
    """The error for a file that cannot be read, for a reason that says nothing of its bytes."""
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return UserError(f"cannot read {path}: {why}; {AS_IT_WAS}")


def cannot_write(path: pathlib.Path, error: Exception) -> UserError:
    """The error for a file that cannot be written, which says why."""
    why = getattr(error, "strerror", None) or error
    return UserError(
        f"cannot write {path}: {why}. Make room or mend the folder, then give the same command again: it goes on from "
        "what is whole"
    )
