"""Fills the rows of a batch: the tokens, targets, weights, segment ids and positions of the spans of an index."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from model.errors import UserError
from model.options.words import nearest
from train.data.batches.packing import Index, Span
from train.data.shards.dataset import Split

Batch = dict[str, np.ndarray]


# The fields of a batch and their formats.
FIELDS: dict[str, type] = {
    "tokens": np.int32,
    "targets": np.int32,
    "weights": np.float32,
    "segment_ids": np.int32,
    "positions": np.int32,
    "text": np.int8,
}


def check_fields(names: Sequence[str]) -> tuple[str, ...]:
    """The names of batch fields without duplicates. Raises UserError for an unknown one."""
    for name in names:
        if name not in FIELDS:
            raise UserError(f"no field of a batch is called {name!r}; {nearest(name, FIELDS)}")
    return tuple(dict.fromkeys(names))


def empty_batch(rows: int, length: int, fields: Sequence[str]) -> Batch:
    """Arrays of a batch that is all padding."""
    return {name: np.zeros((rows, length), FIELDS[name]) for name in fields}


@dataclasses.dataclass(frozen=True)
class DocumentSpan:
    """Part of a document in a row of a batch.

    Columns [column, column + length) have its tokens [start, stop) as targets, and possibly its end; it has
    `document_length` tokens.
    """

    row: int
    column: int
    length: int
    source: int
    document: int
    name: str
    start: int
    stop: int
    document_length: int
    text: str


class PackedSplit:
    """A split of one source, packed: fills rows of arrays with the spans of its index."""

    def __init__(
        self,
        split: Split,
        index: Index,
        *,
        begin: int | None,
        end: int | None,
        cross_document_attention: bool,
        sequence_length: int,
    ) -> None:
        """Args: the ids that `begin` and `end` documents; whether documents see each other; T."""
        self.split = split
        self.index = index
        self._begin, self._end = begin, end
        self._cross_document = cross_document_attention
        self._arange = np.arange(sequence_length, dtype=np.int32)

    @property
    def num_pairs(self) -> int:
        """The number of pairs (input, target) of all documents, with the pairs at their ends."""
        return self.split.num_tokens + (self._end is not None) * self.split.num_documents

    def load(self, rows: Iterable[list[Span]]) -> None:
        """Reads the records that some rows need, all at once; `fill` then finds them in memory."""
        length = self.split.length
        self.split.reader.load(
            number
            for spans in rows
            for document, start, stop, _ in spans
            for number in self.split.records(document, max(start - 1, 0), min(stop + 1, length(document)))
        )

    def fill(self, batch: Batch, row: int, spans: list[Span]) -> None:
        """Writes spans of the index into row `row` of zeroed arrays, one for each field that is wanted."""
        fields, column = {name: array[row] for name, array in batch.items()}, 0
        for k, span in enumerate(spans, start=1):
            stop = column + span.stop - span.start
            columns = {name: array[column:stop] for name, array in fields.items()}
            if "tokens" in columns or "targets" in columns:
                stream = self._tokens(span)
            if "tokens" in columns:
                columns["tokens"][:] = stream[:-1]
            if "targets" in columns:
                columns["targets"][:] = stream[1:]
            if "weights" in columns:
                columns["weights"][:] = 1
            if "text" in columns:  # 0 at a mark that begins a document, and on padding
                columns["text"][int(self._begin is not None and span.start == 0) :] = 1
            if self._lacks_last_target(span):
                for name in columns.keys() & {"targets", "weights"}:
                    columns[name][-1] = 0
            if "segment_ids" in columns:
                columns["segment_ids"][:] = 1 if self._cross_document else k
            if "positions" in columns:
                first = column if self._cross_document else 0
                columns["positions"][:] = self._arange[first : first + stop - column]
            column = stop

    def num_targets(self, spans: list[Span]) -> int:
        """The number of targets that `fill` would count in a row; reads no token."""
        return sum(span.stop - span.start - self._lacks_last_target(span) for span in spans)

    def _lacks_last_target(self, span: Span) -> bool:
        """Whether a span's last input has no target: no token begins documents, and it sees no next document."""
        if self._begin is not None or span.stop < self.split.length(span.document):
            return False
        return span.next_document < 0 or not self._cross_document

    def _tokens(self, span: Span) -> np.ndarray:
        """The stop - start + 1 tokens of a span; neighbours are its pairs."""
        length = self.split.length(span.document)
        out = np.zeros(span.stop - span.start + 1, np.int32)
        # With a begin token, pair j is (token j - 1, token j); token -1 is the begin and token `length` the end.
        num_begin = 0 if self._begin is None else 1
        first, last = max(span.start - num_begin, 0), min(span.stop - num_begin + 1, length)
        skipped = first - (span.start - num_begin)
        out[skipped : skipped + last - first] = self.split.tokens(span.document, first, last)
        if self._begin is not None:
            if skipped:
                out[0] = self._begin
            if self._end is not None and span.stop == length + 1:
                out[-1] = self._end
        elif span.stop == length and span.next_document >= 0 and self._cross_document:
            out[-1] = self.split.tokens(span.next_document, 0, 1)[0]
        return out

    def document_spans(self, spans: list[Span], row: int, source: int) -> Iterator[tuple[DocumentSpan, np.ndarray]]:
        """Yields the spans of documents in a row, each with its target tokens, which are the tokens to learn."""
        column = 0
        target_offset = 1 if self._begin is None else 0
        for span in spans:
            length = self.split.length(span.document)
            start, stop = min(span.start + target_offset, length), min(span.stop + target_offset, length)
            name = self.split.document_name(span.document)
            size = span.stop - span.start
            tokens = self.split.tokens(span.document, start, stop)
            yield DocumentSpan(row, column, size, source, span.document, name, start, stop, length, ""), tokens
            column += size
