"""Checks the files of a checkpoint: whether all were written, and whether they still have the written bytes.

Both checks work without orbax, so that they can tell a library's fault from damage on the disk.
"""

import hashlib
import itertools
import json
import math
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import tensorstore

ITEMS = ("params", "rest", "note")
RECORD = "files.json"
# Larger files are recorded with a CRC-32, which takes less time than a SHA-256.
SMALL = 1 << 20


class MissingError(Exception):
    """A part of a checkpoint is missing or was not written as given."""


def require_arrays(item: pathlib.Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises MissingError unless a folder has every array completely: its description, and the end of every piece.

    No array is read. Takes a folder in orbax's format (tensorstore's OCDBT, arrays in zarr) with a plain path.
    """
    for name in ("manifest.ocdbt", "_METADATA"):
        if not (item / name).is_file():
            raise MissingError(f"{item.name} has no {name}")
    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{item}/"}}
    store = tensorstore.KvStore.open(database).result()
    stored = {key.decode() for key in store.list().result()}
    if lacking := [name for name in shapes if f"{name}/.zarray" not in stored]:
        raise MissingError(f"{lacking[0]} is not in {item.name}")
    described = {name: store.read(f"{name}/.zarray") for name in shapes}
    pieces: list[str] = []
    for name, shape in shapes.items():
        about = json.loads(described[name].result().value)
        if tuple(about["shape"]) != shape:
            raise MissingError(f"{name} is in {item.name} with shape {about['shape']}, expected {list(shape)}")
        counts = [math.ceil(size / piece) for size, piece in zip(shape, about["chunks"], strict=True)]
        indices = itertools.product(*(range(n) for n in counts))
        pieces += [f"{name}/{'.'.join(map(str, index)) or '0'}" for index in indices]
    last = {piece: store.read(piece, byte_range=slice(-1, None)) for piece in pieces if piece in stored}
    for piece in pieces:
        if piece not in last or len(last[piece].result().value) != 1:
            raise MissingError(f"the piece {piece} is not in {item.name}")


def require_note(item: pathlib.Path, note: Mapping[str, Any]) -> None:
    """Raises MissingError unless a folder holds a note, as orbax writes JSON."""
    try:
        stored = json.loads((item / "metadata").read_bytes())
    except (OSError, ValueError) as error:
        raise MissingError(f"{item.name} is not there: {error}") from None
    if json.dumps(stored, sort_keys=True) != json.dumps(note, sort_keys=True):
        raise MissingError(f"{item.name} is not the one that was given")


def record(checkpoint: pathlib.Path) -> None:
    """Writes sizes and digests of the files of a checkpoint's items beside them; reads each while it is cached."""
    found = {str(path.relative_to(checkpoint)): _read(path) for item in ITEMS for path in _files(checkpoint / item)}
    (checkpoint / RECORD).write_text(json.dumps(found, indent=1), encoding="ascii")


def difference(checkpoint: pathlib.Path) -> tuple[str | None, bool]:
    """The first difference of a checkpoint from its record, or None; and whether every byte was compared.

    Every file is read to its end with plain system calls. Raises OSError for a file that cannot be read. Until November
    2026 no digest of a larger file was recorded: then only its size is compared.
    """
    seen = {str(path.relative_to(checkpoint)): _read(path) for path in _files(checkpoint)}
    if lacking := [item for item in ITEMS if not (checkpoint / item).is_dir()]:
        return f"{lacking[0]} is missing", False
    if RECORD not in seen:  # written before there were records
        return None, False
    try:
        recorded = {name: (int(size), digest) for name, (size, digest) in _recorded(checkpoint).items()}
    except (ValueError, AttributeError, TypeError):
        return f"{RECORD} is not what was written", False
    for name, (size, digest) in recorded.items():
        if name not in seen:
            return f"{name} is missing", False
        if seen[name][0] != size:
            return f"{name} has {seen[name][0]} bytes, expected {size}", False
        if digest is not None and seen[name][1] != digest:
            return f"{name} is not what was written", False
    return None, all(digest is not None for _, digest in recorded.values())


def _recorded(checkpoint: pathlib.Path) -> Mapping[str, tuple[int, str | None]]:
    recorded: dict[str, tuple[int, str | None]] = json.loads((checkpoint / RECORD).read_bytes())
    return recorded


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    def refuse(error: OSError) -> None:
        raise error

    for where, _, names in os.walk(folder, onerror=refuse):
        yield from (pathlib.Path(where, name) for name in sorted(names))


def _read(path: pathlib.Path) -> tuple[int, str]:
    """A file's size and its digest; reads it to its end."""
    with open(path, "rb") as file:
        data, size, crc = file.read(SMALL + 1), 0, 0
        if len(data) <= SMALL:
            return len(data), hashlib.sha256(data).hexdigest()
        while data:
            size, crc = size + len(data), zlib.crc32(data, crc)
            data = file.read(SMALL)
    return size, f"crc32 {crc:08x}"
