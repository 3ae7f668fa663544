"""Batch n as a pure function of (data, seed, n): its rows and their contents."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from model.errors import UserError
from train.data.batches.coverage import Coverage, count_coverage, count_targets
from train.data.batches.order import row_order, stable_hash
from train.data.batches.packing import Span, open_index
from train.data.batches.prefetch import EndlessBatches, OnePass
from train.data.batches.rows import FIELDS, Batch, DocumentSpan, PackedSplit, check_fields, empty_batch
from train.data.config import Concatenate, Data
from train.data.interface import DataOption
from train.data.shards.dataset import Dataset, open_dataset

Option = TypeVar("Option", bound=DataOption)


class PackedBatches(EndlessBatches[Option]):
    """The endless batches of packed rows: every epoch of every source has another seeded order.

    `rows(n, rows)` gives rows of global batch n and depends on nothing else, so hosts that read different rows, or a
    run that begins at another n, see the same batches. Every array is [rows, T]; only the fields that are asked for are
    made.
    """

    # Every epoch cuts the rows of a source at another of so many offsets.
    _num_offsets = 1

    def __init__(
        self, dataset: Dataset | str, data: Option, split: str = "train", fields: Sequence[str] = tuple(FIELDS)
    ) -> None:
        self.fields = check_fields(fields)
        self.dataset = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
        self.data = data
        self.split = split
        self._sources = self._open_sources()
        self._order = row_order(self.rows_per_epoch, self._source_weights(), data.seed, split)
        self._offset = functools.lru_cache(maxsize=64)(self._offset_of_epoch)

    @abc.abstractmethod
    def _open_sources(self) -> list[PackedSplit]:
        """The sources, packed."""

    @abc.abstractmethod
    def _source_weights(self) -> list[float]:
        """The shares of the sources in the rows."""

    @property
    def rows_per_epoch(self) -> list[int]:
        """The sequences in one epoch of each source."""
        return [source.index.num_rows for source in self._sources]

    def rows(self, n: int, rows: Sequence[int] | None = None) -> Batch:
        """The given rows of global batch n, all of them by default."""
        wanted = range(self.data.batch_size_at(n)) if rows is None else rows
        spans = [self._spans(n, row) for row in wanted]
        return fill_batch(self._sources, spans, self.data.sequence_length, self.fields)

    def num_targets(self, n: int) -> int:
        """The number of counted targets in global batch n, over the rows of all hosts; reads no token."""
        located = (self._spans(n, row) for row in range(self.data.batch_size_at(n)))
        return sum(self._sources[source].num_targets(spans) for source, spans in located)

    def lengths(self, n: int) -> list[int]:
        """The places in use of each row of global batch n; reads no token."""
        return [num_places(self._spans(n, row)[1]) for row in range(self.data.batch_size_at(n))]

    def documents(self, n: int, rows: Sequence[int] | None = None, characters: int = 60) -> list[DocumentSpan]:
        """The spans of documents in batch n, each with the beginning of its text."""
        found = []
        tokenizer = self.dataset.tokenizer
        for row in range(self.data.batch_size_at(n)) if rows is None else rows:
            source, spans = self._spans(n, row)
            for document_span, tokens in self._sources[source].document_spans(spans, row, source):
                text = tokenizer.decode(tokens[: characters + 8])[:characters]
                found.append(dataclasses.replace(document_span, text=text))
        return found

    def _offset_of_epoch(self, source: int, epoch: int) -> int:
        return stable_hash(self.data.seed, self.split, source, epoch) % self._num_offsets

    def _spans(self, n: int, row: int) -> tuple[int, list[Span]]:
        source, packed_row, offset = self._locate(n, row)
        return source, self._sources[source].index.spans(packed_row, offset)

    def _locate(self, n: int, row: int) -> tuple[int, int, int]:
        if not 0 <= row < self.data.batch_size_at(n):
            raise ValueError(f"row {row} of a batch of {self.data.batch_size_at(n)}")
        source, epoch, packed_row = self._order[self.data.rows_before(n) + row]
        return source, packed_row, self._offset(source, epoch)


class Batches(PackedBatches[Data]):
    """The batches of a split of text; see `PackedBatches`.

        tokens int32    targets int32    positions int32    segment_ids int32 (0 on padding)
        weights float32 (0 on padding, and where the target belongs to a document that the input may not see)

    Documents that see each other share segment id 1, and positions run through the row; otherwise segment ids count
    from 1, and positions restart in each.
    """

    def _open_sources(self) -> list[PackedSplit]:
        if isinstance(self.data.packing, Concatenate) and self.data.packing.random_offset:
            self._num_offsets = self.data.sequence_length
        return _open_sources(self.dataset, self.data, self.split)

    def _source_weights(self) -> list[float]:
        return _source_weights(self.dataset, self.data)


class EvaluationBatches(OnePass):
    """One pass over a split, in the order of its files: every target exactly once; the last batch is padded.

    `limit` keeps only the first `limit` batches. Iteration reads ahead; `batch(n)` returns any batch. `num_rows`
    are the rows of the split.
    """

    def __init__(
        self,
        dataset: Dataset | str,
        data: Data,
        split: str = "validation",
        batch_size: int | None = None,
        limit: int | None = None,
        rows: Sequence[int] | None = None,
    ) -> None:
        self.dataset = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
        self.batch_size = batch_size or data.batch_size
        self._data = dataclasses.replace(data, packing=Concatenate(order="files", random_offset=False))
        self._sources = _open_sources(self.dataset, self._data, split)
        self._firsts = np.cumsum([0] + [source.index.num_rows for source in self._sources])
        self.num_rows = int(self._firsts[-1])
        super().__init__(self.num_rows, self.batch_size, limit, rows, data.sequence_length, self._data.prefetch)

    @functools.cached_property
    def coverage(self) -> Coverage:
        """The tokens, ends of documents and bytes of these batches' counted targets; computed at the first access."""
        total = Coverage()
        for first, source in zip(self._firsts, self._sources, strict=False):
            rows = min(max(self.num_batches * self.batch_size - int(first), 0), source.index.num_rows)
            pairs = min(rows * self._data.sequence_length, source.num_pairs)
            total += count_coverage(source.split, self.dataset.tokenizer, pairs, self._data.cross_document_attention)
        return total

    def batch(self, n: int) -> Batch:
        """Batch n of `num_batches`: [rows, T] arrays as `Batches` gives them; rows past the end are padding."""
        rows = [self._located(n * self.batch_size + row) for row in self._rows]
        return fill_batch(self._sources, rows, self._data.sequence_length, tuple(FIELDS))

    def length(self, number: int) -> int:
        """The places in use of row `number` of the split; reads no token."""
        return num_places(self._located(number)[1])

    def _located(self, number: int) -> tuple[int, list[Span]]:
        """The source of row `number` of the split, and its spans; none past the end."""
        if number >= self.num_rows:
            return 0, []
        source = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return source, self._sources[source].index.spans(number - int(self._firsts[source]), 0)


def num_places(spans: list[Span]) -> int:
    """The places of a row that its spans fill."""
    return sum(span.stop - span.start for span in spans)


def fill_batch(
    sources: list[PackedSplit], rows: list[tuple[int, list[Span]]], sequence_length: int, fields: Sequence[str]
) -> Batch:
    """The batch whose rows are the given spans of the given sources."""
    batch = empty_batch(len(rows), sequence_length, fields)
    for k, packed in enumerate(sources):
        packed.load(spans for source, spans in rows if source == k)
    for row, (source, spans) in enumerate(rows):
        sources[source].fill(batch, row, spans)
    return batch


def _open_sources(dataset: Dataset, data: Data, split: str) -> list[PackedSplit]:
    opened = []
    tokenizer = dataset.tokenizer
    begin, end = tokenizer.begin_of_document, tokenizer.end_of_document
    for part in dataset.split(split):
        _ = part.reader  # checks the sizes of the shards: a truncated shard raises now, not hours later
        lengths = part.documents["tokens"]
        # With another packing no document has a next one.
        cross_document_targets = data.cross_document_attention and isinstance(data.packing, Concatenate)
        if not count_targets(lengths, tokenizer, cross_document_targets):
            why = "" if begin is not None else ", and the tokenizer has no token that begins a document"
            raise UserError(
                f"the split {split!r} of {part.folder} has no token to predict: {part.num_documents:,} document(s), "
                f"{part.num_tokens:,} token(s){why}; give longer documents, hold out another share of them "
                "(data.validation=Tail(fraction=0.1), HeldOutDocuments() or SeparateText(path=...)), or take a "
                "tokenizer that has one, such as Bytes()"
            )
        index = open_index(part.local, split, lengths, end is not None, data.packing, data.sequence_length, data.seed)
        opened.append(
            PackedSplit(
                part,
                index,
                begin=begin,
                end=end,
                cross_document_attention=data.cross_document_attention,
                sequence_length=data.sequence_length,
            )
        )
    return opened


def _source_weights(dataset: Dataset, data: Data) -> list[float]:
    """The weights in the option; where the option only names the folder of a mixture, the weights it was made with."""
    given = [source.weight for source in data.sources()]
    return given if len(given) == len(dataset.members) else dataset.description["weights"]
