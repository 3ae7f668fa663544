"""Atomic file operations, safe when the process is killed: whole lines are appended, files and folders are replaced.

This is the one module that renames, syncs and locks. Errors name the file and say how to continue.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import socket
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from model.errors import UserError
from train.files.paths import AnyPath
from train.files.schema import violations

MAX_DEPTH = 100  # levels of a JSON value, several times more than Cairn writes

# The advice after a fault that is no damage of the files: a permission, a disk that does not answer, a library.
NOTHING_CHANGED = "nothing was changed: fix that, then give the same command again"


class LineFile:
    """A file that grows by whole lines: a partly failed append is undone.

    Opening drops a half-written last line. Raises UserError when the file cannot be written.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            self._end = os.fstat(self._descriptor).st_size
            self._drop_partial_line()
        except OSError as error:
            raise cannot_write(path, error) from error

    def _drop_partial_line(self) -> None:
        """Removes the text after the last line break, which a process was writing when it died."""
        start = max(0, self._end - 1_000_000)
        tail = os.pread(self._descriptor, self._end - start, start)
        partial = len(tail) - (tail.rfind(b"\n") + 1)
        if partial:
            self._end -= partial
            os.ftruncate(self._descriptor, self._end)

    def append(self, data: bytes) -> None:
        """Adds whole lines: the system has them on return, so none is lost if the process is killed."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            raise cannot_write(self._path, error) from error
        self._end += len(data)

    def sync(self) -> None:
        """Returns when all appended lines are on the disk, so none is lost if the machine loses power."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        """Closes the file; nothing can be appended afterwards."""
        os.close(self._descriptor)


def temporary_path(path: pathlib.Path, mark: str = "") -> pathlib.Path:
    """The hidden path of a file or folder, beside its final path, until it is finished.

    The hidden name has a fixed length: a name of 250 bytes with a suffix would be too long for the file system.
    """
    return path.parent / f".{zlib.crc32(os.fsencode(path.name)):08x}{mark}.part"


@contextlib.contextmanager
def atomic_write(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Yields a file to write into; when it is on the disk, it replaces `path` atomically.

    Raises UserError when it cannot be written; then the earlier file is unchanged.
    """
    temporary = temporary_path(path, f".{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
        rename_into_place(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # it does not exist if it could not be made
            temporary.unlink()


def rename_into_place(finished: pathlib.Path, path: pathlib.Path) -> None:
    """Renames a finished file or folder to `path` atomically; syncs a file before and the name afterwards."""
    if not finished.is_dir():
        sync_path(finished)
    os.replace(finished, path)
    sync_path(path.parent)


def sync_written(file: BinaryIO) -> None:
    """Returns when the bytes that were written to an open file are on the disk, and out of the system's cache."""
    file.flush()
    os.fsync(file.fileno())
    drop_cached(file)


def drop_cached(file: BinaryIO, offset: int = 0, length: int = 0) -> None:
    """Gives back the system's memory that holds a part of an open file (0: up to its end), where the system can.

    The next bytes take that memory. Other memory a virtual machine may first have to get from its host, which takes
    longer than to write it (tests/benchmarks/README.md).
    """
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(file.fileno(), offset, length, os.POSIX_FADV_DONTNEED)


def sync_path(path: pathlib.Path) -> None:
    """Returns when a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_folder(path: pathlib.Path, mark: str = "") -> Iterator[pathlib.Path]:
    """Yields a folder to fill, which is renamed to `path` when it is complete; `path` must not exist or be empty.

    Processes and threads that may make the same folder at the same time each give a mark of their own. An interrupted
    call leaves no folder at `path`. Raises OSError.
    """
    part = temporary_path(path, mark)
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        rename_into_place(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def move_replacing(path: pathlib.Path, target: pathlib.Path) -> None:
    """Moves a file or folder to `target`; removes an earlier file or folder there."""
    if path.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
    os.replace(path, target)


class LockedError(Exception):
    """Another process holds a lock: its number, or "unknown", and its host. The message says what to do about it."""

    def __init__(self, owner: str, host: str = "") -> None:
        if host in ("", socket.gethostname()):
            message = f"process {owner}; wait for it or stop it (kill {owner})"
        else:
            message = f"process {owner} on {host}; wait for it or stop it there"
        super().__init__(message)
        self.owner = owner


@contextlib.contextmanager
def lock(path: pathlib.Path, *, wait: bool) -> Iterator[None]:
    """Holds a lock, which the system releases when the process ends; the file has its host and its number.

    Raises LockedError when another process holds the lock and `wait` is false, and OSError when the file cannot be made
    or its file system has no locks.
    """
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            host, _, owner = file.read().strip().rpartition(" ")
            raise LockedError(owner or "unknown", host) from None
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}")
        file.flush()
        yield


def replace_file(path: pathlib.Path, data: bytes) -> None:
    """Replaces the content of a file atomically; see `atomic_write`."""
    with atomic_write(path) as file:
        file.write(data)


def write_json(path: pathlib.Path, value: object) -> None:
    """Writes a JSON file atomically."""
    replace_file(path, (json.dumps(value, indent=2) + "\n").encode())


def write_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes an array as .npy, atomically."""
    with atomic_write(path) as file:
        np.save(file, array, allow_pickle=False)


def read_json(path: AnyPath, remedy: str = "delete it and make it again", schema: Any = dict) -> dict[str, Any]:
    """The JSON object in a file, checked against a schema (train/files/schema.py).

    Raises UserError that names the file, the damaged place and the remedy, or the reason why it cannot be read.
    """
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: expected JSON, got {error}; {remedy}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: expected a JSON object, got {type(value).__name__}; {remedy}")
    for violation in violations(value, schema):
        raise UserError(f"{path} is damaged: {violation}; {remedy}")
    return value


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text. Raises ValueError for any other text, and for values nested too deeply.

    The depth is limited because functions that walk through a value recurse, and Python allows about 1,000 calls.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("values nested too deeply") from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inside
            for outside in level
            if isinstance(outside, (dict, list))
            for inside in (outside.values() if isinstance(outside, dict) else outside)
        ]
        if not level:
            return value
    raise ValueError(f"values nested more than {MAX_DEPTH} deep")


def cannot_read(path: AnyPath, error: Exception) -> UserError:
    """The error for a file that cannot be read, for a reason other than wrong bytes."""
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return UserError(f"cannot read {path}: {why}; {NOTHING_CHANGED}")


def cannot_write(path: pathlib.Path, error: Exception) -> UserError:
    """The error for a file that cannot be written, with the reason."""
    why = getattr(error, "strerror", None) or error
    return UserError(
        f"cannot write {path}: {why}. Make room or fix the folder, then give the same command again: it continues from "
        "what is whole"
    )
