"""Checks the files of a checkpoint: whether all were written, and whether they still have the written bytes.

Both checks work without orbax, so that they can tell a library's fault from damage on the disk.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import io
import itertools
import json
import math
import os
import pathlib
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorstore

from train.files.files import sync_path
from train.files.spool import DIGESTS_FILE

ITEMS = ("params", "rest", "note")
# Larger files are recorded with a CRC-32, which takes less time than a SHA-256.
SMALL_FILE_BYTES = 1 << 20
MAX_THREADS = 8  # they wait for the memory and the disk
POLL_SECONDS = 0.05
UNFINISHED = "__lock"  # how tensorstore's names of files end until these are complete


class MissingError(Exception):
    """A part of a checkpoint is missing or was not written as given."""


def require_arrays(item: pathlib.Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises MissingError unless a folder has every array completely: its description, and the end of every chunk.

    No array is read. Takes a folder in orbax's format (tensorstore's OCDBT, arrays in zarr) with a plain path.
    """
    for name in ("manifest.ocdbt", "_METADATA"):
        if not (item / name).is_file():
            raise MissingError(f"{item.name} has no {name}")
    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{item}/"}}
    store = tensorstore.KvStore.open(database).result()
    stored = {key.decode() for key in store.list().result()}
    if missing := [name for name in shapes if f"{name}/.zarray" not in stored]:
        raise MissingError(f"{missing[0]} is not in {item.name}")
    metadata_reads = {name: store.read(f"{name}/.zarray") for name in shapes}
    chunks: list[str] = []
    for name, shape in shapes.items():
        metadata = json.loads(metadata_reads[name].result().value)
        if tuple(metadata["shape"]) != shape:
            raise MissingError(f"{name} is in {item.name} with shape {metadata['shape']}, expected {list(shape)}")
        counts = [math.ceil(size / chunk) for size, chunk in zip(shape, metadata["chunks"], strict=True)]
        indices = itertools.product(*(range(n) for n in counts))
        chunks += [f"{name}/{'.'.join(map(str, index)) or '0'}" for index in indices]
    last_bytes = {chunk: store.read(chunk, byte_range=slice(-1, None)) for chunk in chunks if chunk in stored}
    for chunk in chunks:
        if chunk not in last_bytes or len(last_bytes[chunk].result().value) != 1:
            raise MissingError(f"the chunk {chunk} is not in {item.name}")


def require_note(item: pathlib.Path, note: Mapping[str, Any]) -> None:
    """Raises MissingError unless a folder holds a note, as orbax writes JSON."""
    try:
        stored = json.loads((item / "metadata").read_bytes())
    except (OSError, ValueError) as error:
        raise MissingError(f"{item.name} is not there: {error}") from None
    if json.dumps(stored, sort_keys=True) != json.dumps(note, sort_keys=True):
        raise MissingError(f"{item.name} is not the one that was given")


def record_digests(checkpoint: pathlib.Path, sync: bool = False) -> None:
    """Writes sizes and digests of the files of a checkpoint's items beside them; reads each while it is cached.

    With `sync` all of them are on the disk when this returns.
    """
    digests = _digests(checkpoint, (path for item in ITEMS for path in _files(checkpoint / item)))
    (checkpoint / DIGESTS_FILE).write_text(json.dumps(digests, indent=1), encoding="ascii")
    if sync:
        paths = [pathlib.Path(where, name) for where, _, names in os.walk(checkpoint) for name in (*names, ".")]
        with concurrent.futures.ThreadPoolExecutor(MAX_THREADS) as threads:  # they wait for the disk together
            collections.deque(threads.map(sync_path, paths), maxlen=0)


@contextlib.contextmanager
def synced_early(folder: pathlib.Path) -> Iterator[None]:
    """Within it new files below a folder are synced as they are completed: little is left to sync at the end."""
    ended = threading.Event()
    known: set[pathlib.Path] = set()

    def sync(path: pathlib.Path) -> None:
        with contextlib.suppress(OSError):  # its folder may have got another name; the last sync reports other errors
            sync_path(path)

    def sync_new_files() -> None:
        with concurrent.futures.ThreadPoolExecutor(MAX_THREADS) as threads:
            while not ended.wait(POLL_SECONDS):
                for where, _, names in os.walk(folder):
                    complete = {pathlib.Path(where, name) for name in names if not name.endswith(UNFINISHED)}
                    collections.deque(map(threads.submit, itertools.repeat(sync), complete - known), maxlen=0)
                    known.update(complete)

    watcher = threading.Thread(target=sync_new_files, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def first_difference(checkpoint: pathlib.Path, share: tuple[int, int] = (0, 1)) -> tuple[str | None, bool]:
    """The first difference of a checkpoint from its record, or None; and whether every byte was compared.

    Every file is read to its end with plain system calls; with a share (i, n) only every n-th file, from the i-th on,
    so that n processes read each file once. Raises OSError for a file that cannot be read. Until November
    2026 no digest of a larger file was recorded: then only its size is compared.
    """
    paths, (first, step) = sorted(_files(checkpoint)), share
    names = {str(path.relative_to(checkpoint)) for path in paths}
    present = _digests(checkpoint, {*paths[first::step], *(path for path in paths if path.name == DIGESTS_FILE)})
    if missing := [item for item in ITEMS if not (checkpoint / item).is_dir()]:
        return f"{missing[0]} is missing", False
    if DIGESTS_FILE not in present:  # written before digests were recorded
        return None, False
    try:
        recorded = {name: (int(size), digest) for name, (size, digest) in _read_digests(checkpoint).items()}
    except (ValueError, AttributeError, TypeError):
        return f"{DIGESTS_FILE} is not what was written", False
    for name, (size, digest) in recorded.items():
        if name not in names:
            return f"{name} is missing", False
        if name not in present:
            continue
        if present[name][0] != size:
            return f"{name} has {present[name][0]} bytes, expected {size}", False
        if digest is not None and present[name][1] != digest:
            return f"{name} is not what was written", False
    return None, all(digest is not None for _, digest in recorded.values())


def _read_digests(checkpoint: pathlib.Path) -> Mapping[str, tuple[int, str | None]]:
    recorded: dict[str, tuple[int, str | None]] = json.loads((checkpoint / DIGESTS_FILE).read_bytes())
    return recorded


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    def refuse(error: OSError) -> None:
        raise error

    for where, _, names in os.walk(folder, onerror=refuse):
        yield from (pathlib.Path(where, name) for name in sorted(names))


def _digests(checkpoint: pathlib.Path, paths: Iterable[pathlib.Path]) -> dict[str, tuple[int, str]]:
    """Sizes and digests of files by their paths below the checkpoint, of several files at a time."""
    listed = list(paths)
    with concurrent.futures.ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads:
        found = threads.map(_size_and_digest, listed)
        return {str(path.relative_to(checkpoint)): digest for path, digest in zip(listed, found, strict=True)}


def _size_and_digest(path: pathlib.Path) -> tuple[int, str]:
    """A file's size and its digest; reads it to its end."""
    with open(path, "rb", buffering=0) as file:
        data = memoryview(bytearray(SMALL_FILE_BYTES + 1))  # memory of its own for every piece takes as long again
        length = size = _fill(file, data)
        if size <= SMALL_FILE_BYTES:
            return size, hashlib.sha256(data[:size]).hexdigest()
        crc = 0
        while length:
            crc = zlib.crc32(data[:length], crc)
            length = _fill(file, data)
            size += length
    return size, f"crc32 {crc:08x}"


def _fill(file: io.RawIOBase, data: memoryview) -> int:
    """Reads into the memory until it is full or the file ends; returns the number of bytes."""
    size = 0
    while size < len(data) and (count := file.readinto(data[size:])):
        size += count
    return size
