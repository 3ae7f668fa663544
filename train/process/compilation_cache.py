"""The folder in which jax keeps compiled programs, rid of the entries that a killed process left half-written.

jax writes an entry in place, and never writes over one that is there: where a process was killed while it wrote, every
later one would fail to read the entry, warn and compile again.
"""

import contextlib
import importlib
import os
import pathlib
import sys
import zlib
from typing import Any

from model.errors import UserError
from train.run.files import replaced

_ENTRY = "-cache"  # the end of the name of an entry
_CHECKED = ".cairn-checked"  # an empty file, as old as the last look at the entries
_ZSTD, _PIECE = b"\x28\xb5\x2f\xfd", 1 << 20


def remove_broken_entries(folder: pathlib.Path) -> list[str]:
    """Removes the entries that end before their compressed bytes do, and returns their names.

    Looks at those alone that came since the last look. Safe beside other processes: one that is just writing an entry
    loses no more than the entry. Entries of an unknown format stay, and so does what the folder does not let go.
    """
    removed: list[str] = []
    with contextlib.suppress(OSError, UserError):  # no folder yet, or one that may only be read
        since = _last_look(folder)
        with replaced(folder / _CHECKED):  # nothing is written into it: it is as old as the beginning of this look
            for entry in os.scandir(folder):
                with contextlib.suppress(OSError):  # another process may have removed it
                    # The time of the last change of the inode, which no copying sets back; file systems round it.
                    if entry.name.endswith(_ENTRY) and entry.stat().st_ctime >= since - 2 and _is_broken(entry.path):
                        os.unlink(entry.path)
                        removed.append(entry.name)
    return sorted(removed)


def _last_look(folder: pathlib.Path) -> float:
    try:
        return (folder / _CHECKED).stat().st_mtime  # set by the clock of the file system, as the entries' times are
    except FileNotFoundError:
        return 0.0


def _is_broken(path: str) -> bool:
    """Whether a file's compressed bytes are cut short or wrong; False where that cannot be told."""
    with open(path, "rb") as file:
        data = file.read(_PIECE)
        if data.strip(b"\0") == b"":  # nothing was written, or its space alone before the power went
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
                data = file.read(_PIECE)
        except errors:
            return True
    return not decompressor.eof


def _zstd() -> tuple[Any, tuple[type[Exception], ...]] | None:
    """A decompressor of Zstandard and its errors, of the library by which jax writes them; None where there is none."""
    if sys.version_info >= (3, 14):  # before, a module of this name is somebody else's
        from compression import zstd

        return zstd.ZstdDecompressor(), (zstd.ZstdError,)
    with contextlib.suppress(ImportError):
        zstandard = importlib.import_module("zstandard")
        return zstandard.ZstdDecompressor().decompressobj(), (zstandard.ZstdError,)
    return None
