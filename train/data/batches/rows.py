"""Fills the rows of a batch: the tokens, targets, weights, segment ids and positions of the pieces of an index."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from model.errors import UserError
from model.options.words import nearest
from train.data.batches.packing import Index, Piece
from train.data.shards.dataset import Split

Batch = dict[str, np.ndarray]


# The fields of a batch and their formats.
FIELDS: dict[str, type] = {
    "tokens": np.int32,
    "targets": np.int32,
    "weights": np.float32,
    "segment_ids": np.int32,
    "positions": np.int32,
}


def checked_fields(names: Sequence[str]) -> tuple[str, ...]:
    """The names of batch fields without duplicates. Raises UserError for an unknown one."""
    for name in names:
        if name not in FIELDS:
            raise UserError(f"no field of a batch is called {name!r}; {nearest(name, FIELDS)}")
    return tuple(dict.fromkeys(names))


def empty_batch(rows: int, length: int, fields: Sequence[str]) -> Batch:
    """Arrays of a batch that is all padding."""
    return {name: np.zeros((rows, length), FIELDS[name]) for name in fields}


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Part of a document in a row of a batch.

    Columns [column, column + length) have its tokens [start, stop) as targets, and possibly its end; it has `of`
    tokens.
    """

    row: int
    column: int
    length: int
    source: int
    document: int
    name: str
    start: int
    stop: int
    of: int
    text: str


class PackedSplit:
    """A split of one source, packed: fills rows of arrays with the pieces of its index."""

    def __init__(
        self,
        split: Split,
        index: Index,
        *,
        begin: int | None,
        end: int | None,
        see_each_other: bool,
        sequence_length: int,
    ) -> None:
        """Args: the ids that `begin` and `end` documents; whether documents see each other; T."""
        self.split = split
        self.index = index
        self._begin, self._end = begin, end
        self._joined = see_each_other
        self._count = np.arange(sequence_length, dtype=np.int32)

    @property
    def num_pairs(self) -> int:
        """The number of pairs (input, target) of all documents, with the pairs at their ends."""
        return self.split.num_tokens + (self._end is not None) * self.split.num_documents

    def load(self, rows: Iterable[list[Piece]]) -> None:
        """Reads the records that some rows need, all at once; `fill` then finds them in memory."""
        length = self.split.length
        self.split.reader.load(
            number
            for pieces in rows
            for document, start, stop, _ in pieces
            for number in self.split.records(document, max(start - 1, 0), min(stop + 1, length(document)))
        )

    def fill(self, batch: Batch, at: int, pieces: list[Piece]) -> None:
        """Writes pieces of the index into row `at` of zeroed arrays, one for each field that is wanted."""
        row, column = {name: array[at] for name, array in batch.items()}, 0
        for k, piece in enumerate(pieces, start=1):
            stop = column + piece.stop - piece.start
            here = {name: array[column:stop] for name, array in row.items()}
            if "tokens" in here or "targets" in here:
                stream = self._stream(piece)
            if "tokens" in here:
                here["tokens"][:] = stream[:-1]
            if "targets" in here:
                here["targets"][:] = stream[1:]
            if "weights" in here:
                here["weights"][:] = 1
            if self._ends_unknown(piece):
                for name in here.keys() & {"targets", "weights"}:
                    here[name][-1] = 0
            if "segment_ids" in here:
                here["segment_ids"][:] = 1 if self._joined else k
            if "positions" in here:
                here["positions"][:] = self._count[column:stop] if self._joined else self._count[: stop - column]
            column = stop

    def num_targets(self, pieces: list[Piece]) -> int:
        """The number of targets that `fill` would count in a row; reads no token."""
        return sum(piece.stop - piece.start - self._ends_unknown(piece) for piece in pieces)

    def _ends_unknown(self, piece: Piece) -> bool:
        """Whether a piece's last input has no target: no token begins documents, and it sees no next document."""
        if self._begin is not None or piece.stop < self.split.length(piece.document):
            return False
        return piece.next < 0 or not self._joined

    def _stream(self, piece: Piece) -> np.ndarray:
        """The stop - start + 1 tokens of a piece; neighbours are its pairs."""
        length = self.split.length(piece.document)
        out = np.zeros(piece.stop - piece.start + 1, np.int32)
        # With a begin token, pair j is (token j - 1, token j); token -1 is the begin and token `length` the end.
        lead = 0 if self._begin is None else 1
        first, last = max(piece.start - lead, 0), min(piece.stop - lead + 1, length)
        skipped = first - (piece.start - lead)
        out[skipped : skipped + last - first] = self.split.tokens(piece.document, first, last)
        if self._begin is not None:
            if skipped:
                out[0] = self._begin
            if self._end is not None and piece.stop == length + 1:
                out[-1] = self._end
        elif piece.stop == length and piece.next >= 0 and self._joined:
            out[-1] = self.split.tokens(piece.next, 0, 1)[0]
        return out

    def stretches(self, pieces: list[Piece], at: int, source: int) -> Iterator[tuple[Stretch, np.ndarray]]:
        """Yields the stretches of documents in a row, each with its target tokens, which are the tokens to learn."""
        column = 0
        lead = 1 if self._begin is None else 0
        for piece in pieces:
            length = self.split.length(piece.document)
            start, stop = min(piece.start + lead, length), min(piece.stop + lead, length)
            name = self.split.document_name(piece.document)
            size = piece.stop - piece.start
            tokens = self.split.tokens(piece.document, start, stop)
            yield Stretch(at, column, size, source, piece.document, name, start, stop, length, ""), tokens
            column += size
