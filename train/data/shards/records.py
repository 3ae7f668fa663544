"""The bytes of one record: a span of one document's tokens, with its checksum and its origin."""

from __future__ import annotations

import dataclasses
import struct
import zlib

import numpy as np

MAGIC = b"CRN1"
# magic, checksum of the rest, bytes per token, length of the name, offset of the first token, tokens in the document
HEADER = struct.Struct("<4sIHHQQ")
CHECKED_FROM = 8
DTYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32}
MAX_NAME_BYTES = 60_000


class DamagedRecordError(Exception):
    """The bytes are not an intact record; the reader adds the file and the number of the record."""


@dataclasses.dataclass(frozen=True)
class Record:
    """Tokens [offset, offset + len(tokens)) of the document `name`, which has `document_tokens` in all."""

    name: str
    offset: int
    document_tokens: int
    tokens: np.ndarray


def token_bytes(vocab_size: int) -> int:
    """The bytes per token for a vocabulary size: 1, 2 or 4."""
    return 1 if vocab_size <= 1 << 8 else 2 if vocab_size <= 1 << 16 else 4


def pack(record: Record, width: int) -> bytes:
    """A record as bytes, its tokens `width` bytes each, little-endian."""
    name = record.name.encode("utf-8")[-MAX_NAME_BYTES:]
    tokens = record.tokens.astype(np.dtype(DTYPES[width]).newbyteorder("<")).tobytes()
    header = HEADER.pack(MAGIC, 0, width, len(name), record.offset, record.document_tokens)
    body = header[CHECKED_FROM:] + name + tokens
    return MAGIC + struct.pack("<I", zlib.crc32(body)) + body


def unpack(content: bytes) -> Record:
    """The record in some bytes. Raises DamagedRecordError when the bytes are damaged."""
    if len(content) < HEADER.size:
        raise DamagedRecordError(f"{len(content)} bytes are too few for a record")
    magic, checksum, width, length, offset, total = HEADER.unpack_from(content)
    if magic != MAGIC or width not in DTYPES:
        raise DamagedRecordError(f"it begins with {content[:4]!r}, expected {MAGIC!r}")
    found = zlib.crc32(memoryview(content)[CHECKED_FROM:])
    if found != checksum:
        raise DamagedRecordError(f"its checksum is {found:08x}, expected {checksum:08x}")
    start = HEADER.size + length
    tokens = np.frombuffer(content, np.dtype(DTYPES[width]).newbyteorder("<"), offset=start)
    return Record(content[HEADER.size : start].decode("utf-8", "replace"), offset, total, tokens)
