"""Packs documents into sequences. An index, built once and kept on disk, lists the spans that fill each row.

Lengths are counted in pairs (input, target). With the tokens B and E that begin and end documents, the document d0 d1
d2 has the inputs B d0 d1 d2 and the targets d0 d1 d2 E: every token is a target once, and every target belongs to the
same document as its input. B is the tokenizer's `begin_of_document`, as in evaluation and in generation; it is E where
the tokenizer has no other. With B alone the inputs are B d0 d1. Without both the inputs are d0 d1 d2, and the targets
are d1 d2 and the next token in the row's source. In every case a document has one pair per input.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from model.options.json import to_json
from train.data import config
from train.files.files import atomic_folder


class Span(NamedTuple):
    """Pairs [start, stop) of a document; `next_document` follows in the joined stream, -1 for none."""

    document: int
    start: int
    stop: int
    next_document: int


class Index(Protocol):
    """Lists the spans that fill each row of a split."""

    num_rows: int

    def spans(self, row: int, offset: int) -> list[Span]:
        """The spans of a row in order, at most T pairs in all; `offset` in [0, T) moves every cut."""


class ConcatenateIndex:
    """Documents joined end to end in some order; row r holds pairs [r T, (r + 1) T) of the stream, the last row fewer.

    With an offset the stream begins later and wraps around: every pair is still in exactly one row.
    """

    def __init__(self, order: np.ndarray, ends: np.ndarray, sequence_length: int) -> None:
        # Plain arrays over the mapped files: taking one number from a memmap costs several times as much.
        self._order, self._ends = np.asarray(order), np.asarray(ends)
        self._length = sequence_length
        self._total = int(ends[-1]) if len(ends) else 0
        self.num_rows = -(-self._total // sequence_length)

    def spans(self, row: int, offset: int) -> list[Span]:
        """The spans of a row in order."""
        left = min(self._length, self._total - row * self._length)
        at = (offset + row * self._length) % self._total
        found = []
        index = int(self._ends.searchsorted(at, side="right"))
        while left > 0:
            begin = int(self._ends[index - 1]) if index else 0
            stop = min(int(self._ends[index]), at + left)
            # The next document that has pairs: an empty document has none where no token ends documents.
            after = int(self._ends.searchsorted(self._ends[index], side="right"))
            next_document = int(self._order[after]) if after < len(self._order) else -1
            if stop > at:  # an empty document has no pairs where no token ends documents
                found.append(Span(int(self._order[index]), at - begin, stop - begin, next_document))
            left -= stop - at
            at, index = (stop, index + 1) if index + 1 < len(self._order) else (0, 0)
        return found


class BestFitIndex:
    """Documents, or the parts of long ones, packed into rows; the spans of row r are [firsts[r], firsts[r + 1])."""

    def __init__(self, firsts: np.ndarray, documents: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> None:
        self._firsts, self._documents = np.asarray(firsts), np.asarray(documents)
        self._starts, self._stops = np.asarray(starts), np.asarray(stops)
        self.num_rows = len(firsts) - 1

    def spans(self, row: int, offset: int) -> list[Span]:
        """The spans of a row in order; there is no cut to move."""
        return [
            Span(int(self._documents[i]), int(self._starts[i]), int(self._stops[i]), -1)
            for i in range(int(self._firsts[row]), int(self._firsts[row + 1]))
        ]


def concatenate(lengths: np.ndarray, option: config.Concatenate, seed: int) -> dict[str, np.ndarray]:
    """The arrays of a ConcatenateIndex over documents with `lengths` pairs."""
    order = np.arange(len(lengths), dtype=np.int64)
    if option.order == "shuffled":
        order = np.random.Generator(np.random.PCG64(seed)).permutation(order)
    return {"order": order, "ends": np.cumsum(lengths[order], dtype=np.int64)}


def best_fit(lengths: np.ndarray, sequence_length: int) -> dict[str, np.ndarray]:
    """The arrays of a BestFitIndex: spans by decreasing length, each into the fullest row that has space for it.

    Of the rows with equal space, the row that got its space last is taken. All spans of one length are placed together,
    so that the work grows with the number of lengths and of spaces, not with that of documents.
    """
    full = lengths // sequence_length
    rest = lengths % sequence_length
    # Whole rows of long documents first: nothing else fits beside them.
    documents = np.repeat(np.arange(len(lengths), dtype=np.int64), full)
    part = np.arange(len(documents)) - np.repeat(np.cumsum(full) - full, full)
    by_length = np.argsort(-rest, kind="stable")
    by_length = by_length[: np.count_nonzero(rest)]
    row_of = _rows_of(rest[by_length], sequence_length)
    in_rows = np.argsort(row_of, kind="stable")
    packed = by_length[in_rows]
    sizes = np.bincount(row_of)
    return {
        "firsts": np.concatenate([np.arange(len(documents)), len(documents) + np.cumsum(np.append(0, sizes))]),
        "documents": np.concatenate([documents, packed]),
        "starts": np.concatenate([part * sequence_length, full[packed] * sequence_length]),
        "stops": np.concatenate([(part + 1) * sequence_length, lengths[packed]]),
    }


def _rows_of(sizes: np.ndarray, sequence_length: int) -> np.ndarray:
    """The row of each span, by best fit; `sizes` are the spans' lengths, which decrease and are above 0."""
    row_of = np.empty(len(sizes), np.int64)
    rows_by_space = [_Stack() for _ in range(sequence_length + 1)]
    spaces = 0  # bit r is set when some row has space r: the least space that suffices is one shift away
    num_rows = placed = 0
    bounds = np.append(0, np.flatnonzero(np.diff(sizes)) + 1) if len(sizes) else np.array([], np.int64)
    for begin, end in zip(bounds.tolist(), [*bounds[1:].tolist(), len(sizes)], strict=False):
        size = int(sizes[begin])
        while placed < end:
            # Rows of the least space that suffices, or new ones. No row has a space between the two: so a row that has
            # taken a span takes the next ones too, as long as they fit.
            fitting = spaces >> size
            space = size + (fitting & -fitting).bit_length() - 1 if fitting else sequence_length
            each = space // size
            wanted = -(-(end - placed) // each)
            if fitting:
                rows = rows_by_space[space].pop(wanted)
                if not rows_by_space[space]:
                    spaces &= ~(1 << space)
            else:
                rows, num_rows = np.arange(num_rows, num_rows + wanted), num_rows + wanted
            spans = min(end - placed, len(rows) * each)
            row_of[placed : placed + spans] = np.repeat(rows, each)[:spans]
            placed += spans
            in_last = spans - (len(rows) - 1) * each
            for count, those in ((each, rows[:-1]), (in_last, rows[-1:])):
                left = space - count * size
                if left and len(those):
                    rows_by_space[left].push(those)
                    spaces |= 1 << left
    return row_of


class _Stack:
    """Numbers of rows; the last one pushed is popped first."""

    def __init__(self) -> None:
        self._chunks: list[np.ndarray] = []

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def push(self, rows: np.ndarray) -> None:
        """Adds rows; the last of them will be popped first."""
        self._chunks.append(rows)

    def pop(self, count: int) -> np.ndarray:
        """Takes `count` rows, or all if there are fewer."""
        taken = []
        while count and self._chunks:
            chunk = self._chunks.pop()
            if len(chunk) > count:
                self._chunks.append(chunk[:-count])
                chunk = chunk[-count:]
            taken.append(chunk[::-1])
            count -= len(chunk)
        return np.concatenate(taken)


def open_index(
    folder: pathlib.Path,
    split: str,
    tokens: np.ndarray,
    has_end: bool,
    option: config.Packing,
    sequence_length: int,
    seed: int,
) -> Index:
    """Opens the index of a split in `folder`/index; builds it if it is not there, in memory if it cannot be written.

    `tokens` [documents] are the lengths of the documents; `has_end` says whether an end-of-document token adds a pair.
    """

    def build() -> dict[str, np.ndarray]:
        lengths = np.asarray(tokens, np.int64) + has_end
        if isinstance(option, config.Concatenate):
            return concatenate(lengths, option, seed)
        return best_fit(lengths, sequence_length)

    # The cuts of a concatenation are computed, not stored: one index serves every length and every offset.
    if isinstance(option, config.Concatenate):
        key = ["Concatenate", option.order, seed if option.order == "shuffled" else None]
    else:
        key = [to_json(option), sequence_length]
    content = [key, has_end, split, len(tokens), int(np.sum(tokens))]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
    arrays = _load_or_build(folder / "index" / f"{split}-{type(option).__name__.lower()}-{digest}", build)
    if isinstance(option, config.Concatenate):
        return ConcatenateIndex(arrays["order"], arrays["ends"], sequence_length)
    return BestFitIndex(arrays["firsts"], arrays["documents"], arrays["starts"], arrays["stops"])


def _load_or_build(folder: pathlib.Path, build: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The memory-mapped arrays of a folder. If it is missing, builds them and renames a complete folder into place."""
    with contextlib.suppress(OSError, ValueError, EOFError):
        if found := {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in folder.glob("*.npy")}:
            return found
    arrays = build()
    suffix = f".{os.getpid()}.{threading.get_ident()}"
    # A dataset that others own may be read-only.
    with contextlib.suppress(OSError), atomic_folder(folder, suffix) as part:
        for name, array in arrays.items():
            np.save(part / f"{name}.npy", array, allow_pickle=False)
    return arrays
