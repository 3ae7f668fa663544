"""Record shards on disk (array_record, one record per group, random access), written atomically, read with checks."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

from model.errors import UserError
from train.data.shards import records
from train.data.shards.records import Record
from train.files.files import cannot_read, cannot_write, rename_into_place, temporary_path

# A document is cut into records of this many tokens, so that reads from a long document stay short.
RECORD_TOKENS = 8192
# The number of shards that a reader keeps open.
OPEN_FILES = 256
# A row about a document: its number of tokens, the bytes and the words of its text, its first record.
DOCUMENT_DTYPE = np.dtype([("tokens", "<u8"), ("bytes", "<u8"), ("words", "<u8"), ("record", "<u8")])
HOW_TO_FIX = "delete the folder and prepare the data again"


@dataclasses.dataclass(frozen=True)
class Shard:
    """The description of a finished shard file; opening checks `bytes_of_file`, `summary.verify` checks `sha256`."""

    file: str
    records: int
    documents: int
    tokens: int
    bytes: int
    words: int
    bytes_of_file: int
    sha256: str


SHARD_SCHEMA = {field.name: str if field.name in ("file", "sha256") else int for field in dataclasses.fields(Shard)}


class ShardWriter:
    """Writes documents into one shard file; the file gets its name when it is finished, not before."""

    def __init__(self, path: pathlib.Path, vocab_size: int) -> None:
        self._path = path
        self._temporary = temporary_path(path, f".{os.getpid()}")
        self._width = records.token_bytes(vocab_size)
        self._writer: Any = None
        self._documents: list[tuple[int, int, int, int]] = []
        self._records = 0

    def write(self, name: str, tokens: np.ndarray, num_bytes: int, words: int) -> None:
        """Appends one document; leaves out a document without tokens, which holds nothing to learn."""
        if not len(tokens):
            return
        if self._writer is None:
            from array_record.python import array_record_module

            # Tokens hardly compress, and reading one record of many must be cheap.
            self._writer = array_record_module.ArrayRecordWriter(
                os.fsencode(self._temporary), "group_size:1,uncompressed"
            )
        self._documents.append((len(tokens), num_bytes, words, self._records))
        for offset in range(0, len(tokens), RECORD_TOKENS):
            record = Record(name, offset, len(tokens), tokens[offset : offset + RECORD_TOKENS])
            try:
                self._writer.write(records.pack(record, self._width))
            except (RuntimeError, OSError) as error:
                raise cannot_write(self._path, error) from None
            self._records += 1

    def finish(self) -> tuple[Shard, np.ndarray] | None:
        """Closes and names the file; returns its description and its table of documents, None without documents."""
        if self._writer is None:
            return None
        try:
            self._writer.close()
        except (RuntimeError, OSError) as error:
            raise cannot_write(self._path, error) from None
        self._writer = None
        with open(self._temporary, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
        rename_into_place(self._temporary, self._path)
        table = np.array(self._documents, DOCUMENT_DTYPE)
        tokens, num_bytes, words = (int(table[column].sum()) for column in ("tokens", "bytes", "words"))
        return Shard(self._path.name, self._records, len(table), tokens, num_bytes, words, size, digest), table

    def abandon(self) -> None:
        """Removes the unfinished file."""
        if self._writer is not None:
            with contextlib.suppress(RuntimeError, OSError):
                self._writer.close()
            self._writer = None
        self._temporary.unlink(missing_ok=True)


class ShardReader:
    """Reads the records of a list of shards by number; caches the records used last, up to `cache_bytes` of tokens.

    Opening checks the size of every file, and reading checks the checksum of every record. UserError names the file and
    the record, or the reason why it cannot be read.
    """

    def __init__(self, folder: pathlib.Path, shards: Iterable[Shard], cache_bytes: int = 256 << 20) -> None:
        self._paths, self._sizes, self._digests = [], [], []
        for shard in shards:
            path = folder / shard.file
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                raise UserError(f"{path} is missing: the dataset has it in its list of shards; {HOW_TO_FIX}") from None
            except OSError as error:
                raise cannot_read(path, error) from error
            if size != shard.bytes_of_file:
                state = "is truncated" if size < shard.bytes_of_file else "has grown"
                raise UserError(f"{path} {state}: {size} bytes, expected {shard.bytes_of_file}; {HOW_TO_FIX}")
            self._paths.append(path)
            self._sizes.append(shard.records)
            self._digests.append(shard.sha256)
        self._firsts = np.concatenate([[0], np.cumsum(self._sizes)]).astype(np.int64)
        self._open_shard = functools.lru_cache(maxsize=OPEN_FILES)(self._open)
        self._cache: collections.OrderedDict[int, Record] = collections.OrderedDict()
        self._free_bytes = cache_bytes
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def read(self, number: int) -> Record:
        """Record `number`, counted through all shards. Safe to call from several threads."""
        with self._lock:
            record = self._cache.get(number)
            if record is not None:
                self._cache.move_to_end(number)
                return record
        try:
            (content,) = self._read_bytes([number])
            return self._store(number, records.unpack(content))
        except records.DamagedRecordError as error:
            raise UserError(f"{self._where(number)} is damaged: {error}; {HOW_TO_FIX}") from None

    def load(self, numbers: Iterable[int]) -> None:
        """Reads records that will be needed, all at once: a fifth of the work of reading them one by one."""
        if len(self._cache) == len(self):  # all of a small dataset is soon in memory
            return
        missing = sorted({number for number in numbers if number not in self._cache})
        if len(missing) < 2:
            return
        with contextlib.suppress(records.DamagedRecordError):  # `read` raises for the damaged record
            for number, content in zip(missing, self._read_bytes(missing), strict=True):
                self._store(number, records.unpack(content))

    def _store(self, number: int, record: Record) -> Record:
        with self._lock:
            if number not in self._cache:
                self._cache[number] = record
                self._free_bytes -= record.tokens.nbytes
            while self._free_bytes < 0 and len(self._cache) > 1:
                self._free_bytes += self._cache.popitem(last=False)[1].tokens.nbytes
        return record

    def _read_bytes(self, numbers: list[int]) -> list[bytes]:
        """The bytes of records, given their numbers in ascending order."""
        found: list[bytes] = []
        shards = np.searchsorted(self._firsts, numbers, side="right") - 1
        try:
            for shard in np.unique(shards).tolist():
                indices = np.asarray(numbers)[shards == shard] - self._firsts[shard]
                found += self._open_shard(shard).read(indices.tolist())
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise self._read_error(shard, error) from None
        return found

    def _read_error(self, shard: int, error: Exception) -> Exception:
        """The reason why the library failed: damage where the file can be read and its checksum differs."""
        try:
            with open(self._paths[shard], "rb") as file:
                intact = hashlib.file_digest(file, "sha256").hexdigest() == self._digests[shard]
        except OSError as refused:
            return cannot_read(self._paths[shard], refused)
        if intact:
            return cannot_read(self._paths[shard], error)
        # array_record has checksums of its own, and names the byte at which one failed.
        return records.DamagedRecordError(str(error).splitlines()[0] if str(error) else type(error).__name__)

    def _open(self, shard: int) -> Any:
        from array_record.python import array_record_module

        # Without reader threads: waking a thread for every record costs far more than reading the record, even more so
        # when all cores are busy. (grain's ArrayRecordDataSource starts a thread for every shard of every read.)
        options = "readahead_buffer_size:0,max_parallelism:0"
        return array_record_module.ArrayRecordReader(
            os.fsencode(self._paths[shard]), options, file_reader_buffer_size=1 << 15
        )

    def _where(self, number: int) -> str:
        shard = min(int(np.searchsorted(self._firsts, number, side="right")), len(self._paths)) - 1
        return f"{self._paths[shard]}, record {number - int(self._firsts[shard])} of {self._sizes[shard]},"
