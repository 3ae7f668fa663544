"""Removes half-written entries from the folder in which jax keeps compiled programs.

jax writes an entry in place, and never overwrites an existing entry: after a process was killed while it wrote, every
later process would fail to read the entry, warn and compile again.
"""

import contextlib
import importlib
import os
import pathlib
import sys
import zlib
from typing import Any

from model.errors import UserError
from train.files.files import atomic_write

_ENTRY_SUFFIX = "-cache"  # the end of an entry's file name
_LAST_CHECK_FILE = ".cairn-checked"  # an empty file, written at the last check of the entries
_ZSTD, _CHUNK_BYTES = b"\x28\xb5\x2f\xfd", 1 << 20


def remove_broken_entries(folder: pathlib.Path) -> list[str]:
    """Removes the entries whose compressed bytes are cut short or wrong, and returns their names.

    Checks only the entries since the last check. Safe beside other processes: a process that is just writing an entry
    loses only that entry. Entries of an unknown format stay, and so do entries that cannot be removed.
    """
    removed: list[str] = []
    with contextlib.suppress(OSError, UserError):  # no folder yet, or one that may only be read
        since = _last_check(folder)
        # Nothing is written into this file: it is as old as the beginning of this check.
        with atomic_write(folder / _LAST_CHECK_FILE):
            for entry in os.scandir(folder):
                with contextlib.suppress(OSError):  # another process may have removed it
                    # The time of the inode's last change, which copying does not set back; file systems round it.
                    if (
                        entry.name.endswith(_ENTRY_SUFFIX)
                        and entry.stat().st_ctime >= since - 2
                        and _is_broken(entry.path)
                    ):
                        os.unlink(entry.path)
                        removed.append(entry.name)
    return sorted(removed)


def _last_check(folder: pathlib.Path) -> float:
    try:
        # The clock of the file system sets this time, as it does those of the entries.
        return (folder / _LAST_CHECK_FILE).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_broken(path: str) -> bool:
    """Whether a file's compressed bytes are cut short or wrong; False where this is unknown."""
    with open(path, "rb") as file:
        data = file.read(_CHUNK_BYTES)
        if data.strip(b"\0") == b"":  # nothing was written, or only zeros before a power failure
            return True
        decompressor: Any = zlib.decompressobj()
        errors: tuple[type[Exception], ...] = (zlib.error,)
        if data.startswith(_ZSTD):
            zstd = _zstd()
            if zstd is None:
                return False
            decompressor, errors = zstd
        elif data[0] & 15 != 8 or (len(data) > 1 and int.from_bytes(data[:2], "big") % 31):  # no zlib header: RFC 1950
            return False
        try:
            while data and not decompressor.eof:
                decompressor.decompress(data)
                data = file.read(_CHUNK_BYTES)
        except errors:
            return True
    return not decompressor.eof


def _zstd() -> tuple[Any, tuple[type[Exception], ...]] | None:
    """A Zstandard decompressor and its errors, from the library with which jax compresses; None where there is none."""
    if sys.version_info >= (3, 14):  # in older versions a module of this name is another package
        from compression import zstd

        return zstd.ZstdDecompressor(), (zstd.ZstdError,)
    with contextlib.suppress(ImportError):
        zstandard = importlib.import_module("zstandard")
        return zstandard.ZstdDecompressor().decompressobj(), (zstandard.ZstdError,)
    return None
