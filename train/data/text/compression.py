"""Compressed files as streams of bytes: gzip, bzip2, xz and zstd, any number of parts, checked to the last byte.

Reading forwards takes one pass; seeking backwards starts again at the beginning. Python's own modules stop silently
where other bytes follow a part, so this module joins the parts itself, and other bytes are an error.
"""

from __future__ import annotations

import bz2
import functools
import io
import lzma
import os
import sys
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

from model.errors import UserError
from train.data.text.units import cannot_read, file_version, printable

SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
CHUNK = 1 << 16
_ZSTD_EXTRA = 'reading zstd needs Python 3.14 or pyarrow: pip install -e ".[zstd]"'


def compression_of(name: str) -> tuple[str, str | None]:
    """A file name without the suffix of its compression, and the compression; None when there is none."""
    stem, suffix = os.path.splitext(name)
    compression = SUFFIXES.get(suffix.lower())
    return (name, None) if compression is None else (stem, compression)


def open_bytes(path: str) -> BinaryIO:
    """Opens a file for reading and seeking, decompressed where its suffix says so.

    Raises UserError that names the file when it cannot be read, is damaged or truncated, here and in later reads.
    """
    _, compression = compression_of(path)
    try:
        if compression is None:
            return open(path, "rb")
        return io.BufferedReader(_DecompressedFile(path, compression), CHUNK)
    except OSError as error:
        raise cannot_read(path, error) from None


def read_range(path: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of the decompressed file, fewer when it ends earlier. Raises UserError as `open_bytes` does.

    The compressed file that was read last stays open, so that successive ranges take one pass together.
    """
    if compression_of(path)[1] is not None:
        stream = _last_opened(path, file_version(path))
        try:
            stream.seek(start)
            return stream.read(stop - start)
        except UserError:
            _last_opened.cache_clear()
            raise
    try:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(stop - start)
    except OSError as error:
        raise cannot_read(path, error) from None


@functools.lru_cache(maxsize=1)
def _last_opened(path: str, version: str) -> BinaryIO:
    return open_bytes(path)


class _DecompressedFile(io.RawIOBase):
    """The decompressed bytes of a file. Raises UserError where the file is damaged or truncated."""

    def __init__(self, path: str, compression: str) -> None:
        self._path, self._compression = path, compression
        self._file: BinaryIO | None = None
        self._restart()

    def _restart(self) -> None:
        if self._file is not None:  # pyarrow has closed it, or will
            self._file.close()
        self._file = open(self._path, "rb")  # noqa: SIM115 - closed with this object
        self._position = 0
        is_zstd = self._compression == "zstd"
        self._read = _zstd_reader(self._file, self._path) if is_zstd else _Parts(self._file, self._compression)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the front of a buffer; 0 at the end."""
        try:
            data = self._read(len(buffer))
        except Exception as error:  # each library has errors of its own for a damaged file
            if isinstance(error, (UserError, MemoryError)):
                raise
            if getattr(error, "errno", None):
                raise cannot_read(self._path, error) from None
            raise UserError(
                f"{printable(self._path)} is a damaged or truncated {self._compression} file: {error};"
                f" {self._position:,} bytes of text could be read. Get it again, or leave it out with a narrower path"
            ) from None
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a byte, or to the end where that comes first; returns the position reached."""
        if whence == os.SEEK_CUR:
            offset += self._position
        if whence != os.SEEK_END and offset < self._position:
            self._restart()
        scratch = memoryview(bytearray(CHUNK))
        while whence == os.SEEK_END or self._position < offset:
            size = CHUNK if whence == os.SEEK_END else min(CHUNK, offset - self._position)
            if not self.readinto(scratch[:size]):
                break
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
        super().close()


class _GzipDecompressor:
    """zlib's decompressor with the interface of the decompressors of bz2, lzma and zstd."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)  # with the header and the checksum of gzip

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data


_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "gzip": _GzipDecompressor,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}


class _Parts:
    """Reads the successive compressed parts of a file. Calling it returns some bytes, none at the end."""

    def __init__(self, file: BinaryIO, compression: str, new_decompressor: Callable[[], Any] | None = None) -> None:
        self._new_decompressor = new_decompressor or _DECOMPRESSORS[compression]
        self._file = file
        self._part: Any = self._new_decompressor()
        self._input = b""

    def __call__(self, size: int) -> bytes:
        while True:
            if self._part.eof and not self._begin_next():
                return b""
            unread, self._input = self._input, b""
            data: bytes = self._part.decompress(unread, size)
            if data:
                return data
            if not self._part.eof:
                self._input = self._file.read(CHUNK)
                if not self._input:
                    raise EOFError("its end is missing")

    def _begin_next(self) -> bool:
        """Begins the next part after the end of a part, skipping zeros between them; returns whether there is one."""
        rest = self._part.unused_data.lstrip(b"\0")
        while not rest:
            block = self._file.read(CHUNK)
            if not block:
                return False
            rest = block.lstrip(b"\0")
        self._part, self._input = self._new_decompressor(), rest
        return True


def _zstd_reader(file: BinaryIO, path: str) -> Callable[[int], bytes]:
    if sys.version_info >= (3, 14):  # in older versions a module of this name is another package
        from compression import zstd

        return _Parts(file, "zstd", zstd.ZstdDecompressor)
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{printable(path)}: {_ZSTD_EXTRA}") from None
    stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")

    def read(size: int) -> bytes:
        if not os.fstat(file.fileno()).st_size:
            raise EOFError("it is empty")
        data: bytes = stream.read(size)
        return data

    return read
