"""Batch n as a pure function of (data, seed, n): which rows it has, what fills them, and threads that read ahead."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from model.errors import UserError
from train.data.config import Concatenate, Data
from train.data.dataset import Dataset, Split, open_dataset
from train.data.packing import Index, Piece, open_index

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Part of a document in a row of a batch.

    Columns [column, column + length) have its tokens [start, stop), of `of`, as targets, and perhaps its end.
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


class _Packed:
    """A split of one source, packed: fills rows of arrays with the pieces of its index."""

    def __init__(self, split: Split, index: Index, end: int | None, see_each_other: bool, sequence_length: int) -> None:
        self.split = split
        self.index = index
        self._end = end
        self._joined = see_each_other
        self._count = np.arange(sequence_length, dtype=np.int32)

    def fill(self, batch: Batch, at: int, row: int, offset: int) -> None:
        """Writes row `row` of the index, its cuts moved by `offset`, into row `at` of zeroed arrays."""
        tokens, targets, mask = batch["tokens"][at], batch["targets"][at], batch["loss_mask"][at]
        segments, positions = batch["segment_ids"][at], batch["positions"][at]
        column = 0
        for k, piece in enumerate(self.index.pieces(row, offset), start=1):
            stream = self._stream(piece)
            stop = column + piece.stop - piece.start
            tokens[column:stop] = stream[:-1]
            targets[column:stop] = stream[1:]
            mask[column:stop] = 1
            if self._ends_unknown(piece):
                targets[stop - 1] = mask[stop - 1] = 0
            segments[column:stop] = 1 if self._joined else k
            positions[column:stop] = self._count[column:stop] if self._joined else self._count[: stop - column]
            column = stop

    def _ends_unknown(self, piece: Piece) -> bool:
        """Whether a piece's last target is none of its own: nothing ends its document, and it may not see the next."""
        if self._end is not None or piece.stop < self.split.length(piece.document):
            return False
        return piece.next < 0 or not self._joined

    def _stream(self, piece: Piece) -> np.ndarray:
        """The stop - start + 1 tokens of which neighbours are the pairs of a piece."""
        length = self.split.length(piece.document)
        out = np.zeros(piece.stop - piece.start + 1, np.int32)
        # With an end token, pair j is (token j - 1, token j), token -1 and token `length` being that end.
        lead = 1 if self._end is not None else 0
        first, last = max(piece.start - lead, 0), min(piece.stop - lead + 1, length)
        skipped = first - (piece.start - lead)
        out[skipped : skipped + last - first] = self.split.tokens(piece.document, first, last)
        if self._end is not None:
            if skipped:
                out[0] = self._end
            if piece.stop == length + 1:
                out[-1] = self._end
        elif piece.stop == length and piece.next >= 0 and self._joined:
            out[-1] = self.split.tokens(piece.next, 0, 1)[0]
        return out

    def stretches(self, row: int, offset: int, at: int, source: int) -> Iterator[tuple[Stretch, np.ndarray]]:
        """The documents of a row, each with its tokens; targets are what is named, since those are what is learnt."""
        column = 0
        lead = 0 if self._end is not None else 1
        for piece in self.index.pieces(row, offset):
            length = self.split.length(piece.document)
            start, stop = min(piece.start + lead, length), min(piece.stop + lead, length)
            name = self.split.document_name(piece.document)
            size = piece.stop - piece.start
            tokens = self.split.tokens(piece.document, start, stop)
            yield Stretch(at, column, size, source, piece.document, name, start, stop, length, ""), tokens
            column += size


class Batches:
    """The batches of a split, drawn without end: every epoch of every source in another seeded order.

    `rows(n, rows)` gives rows of global batch n and depends on nothing else, so hosts that read different rows, or a
    run that begins at another n, see the same batches. Every array is [rows, T]:

        tokens int32      targets int32      loss_mask float32 (0 on padding, and where a target would be another
        segment_ids int32 (0 on padding)     positions int32    document's that the input may not see)

    Documents that see each other share segment 1, and positions run through the row; otherwise segments count from 1
    and positions begin again at each.
    """

    def __init__(self, dataset: Dataset | str, data: Data, split: str = "train") -> None:
        self.dataset = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
        self.data = data
        self.split = split
        self._sources = _open_sources(self.dataset, data, split)
        self._order = _row_order(self._sources, _weights(self.dataset, data), data.seed, split)
        shifts = isinstance(data.packing, Concatenate) and data.packing.shift
        self._cuts = data.sequence_length if shifts else 1
        self._offset = functools.lru_cache(maxsize=64)(self._offset_of_epoch)

    @property
    def rows_per_epoch(self) -> list[int]:
        """The sequences in one epoch of each source."""
        return [source.index.num_rows for source in self._sources]

    def rows(self, n: int, rows: Sequence[int] | None = None) -> Batch:
        """The given rows of global batch n, all of them by default."""
        wanted = range(self.data.batch_size) if rows is None else rows
        batch = empty_batch(len(wanted), self.data.sequence_length)
        for at, row in enumerate(wanted):
            source, packed_row, offset = self._locate(n, row)
            self._sources[source].fill(batch, at, packed_row, offset)
        return batch

    def iterator(self, start: int = 0, rows: Sequence[int] | None = None, stop: int | None = None) -> Any:
        """Batches start, start + 1, ..., of which a thread of grain's reads `data.prefetch` ahead until `close()`."""
        return _read_ahead(_Source(lambda n: self.rows(n, rows)), start, stop, self.data.prefetch)

    def documents(self, n: int, rows: Sequence[int] | None = None, characters: int = 60) -> list[Stretch]:
        """The stretches of documents that make up batch n, with the beginning of the text of each."""
        found = []
        tokenizer = self.dataset.tokenizer
        for row in range(self.data.batch_size) if rows is None else rows:
            source, packed_row, offset = self._locate(n, row)
            for stretch, tokens in self._sources[source].stretches(packed_row, offset, row, source):
                text = tokenizer.decode(tokens[: characters + 8])[:characters]
                found.append(dataclasses.replace(stretch, text=text))
        return found

    def _offset_of_epoch(self, source: int, epoch: int) -> int:
        return stable_hash(self.data.seed, self.split, source, epoch) % self._cuts

    def _locate(self, n: int, row: int) -> tuple[int, int, int]:
        if not 0 <= row < self.data.batch_size:
            raise ValueError(f"row {row} of a batch of {self.data.batch_size}")
        source, epoch, packed_row = self._order[n * self.data.batch_size + row]
        return source, packed_row, self._offset(source, epoch)


class EvaluationBatches:
    """A split read through once, in the order of its files: every target exactly once, the last batch padded.

    `limit` keeps the first so many batches. Iterating reads ahead; `batch(n)` gives any one.
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
        self._rows = range(self.batch_size) if rows is None else rows
        self._data = dataclasses.replace(data, packing=Concatenate(order="files", shift=False))
        self._sources = _open_sources(self.dataset, self._data, split)
        self._firsts = np.cumsum([0] + [source.index.num_rows for source in self._sources])
        whole = -(-int(self._firsts[-1]) // self.batch_size)
        self.num_batches = whole if limit is None else min(whole, limit)
        self.is_whole = self.num_batches == whole
        splits = [source.split for source in self._sources]
        self.num_documents, self.num_tokens, self.num_bytes, self.num_words = (
            sum(getattr(s, name) for s in splits) for name in ("num_documents", "num_tokens", "num_bytes", "num_words")
        )

    def batch(self, n: int) -> Batch:
        """Batch n of `num_batches`: [rows, T] arrays as `Batches` gives them; rows past the end are padding."""
        batch = empty_batch(len(self._rows), self._data.sequence_length)
        for at, row in enumerate(self._rows):
            number = n * self.batch_size + row
            if number < self._firsts[-1]:
                source = int(np.searchsorted(self._firsts, number, side="right")) - 1
                self._sources[source].fill(batch, at, number - int(self._firsts[source]), 0)
        return batch

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        ahead = _read_ahead(_Source(self.batch), 0, self.num_batches, min(4, self._data.prefetch))
        try:
            yield from ahead
        finally:
            ahead.close()


def empty_batch(rows: int, length: int) -> Batch:
    """Arrays of a batch that is all padding."""
    names = ("tokens", "targets", "segment_ids", "positions")
    return {name: np.zeros((rows, length), np.int32) for name in names} | {
        "loss_mask": np.zeros((rows, length), np.float32)
    }


def stable_hash(*parts: Any) -> int:
    """A 32-bit number that is the same on every machine, in every session."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big")


def _open_sources(dataset: Dataset, data: Data, split: str) -> list[_Packed]:
    opened = []
    end = dataset.end_of_document
    for part in dataset.split(split):
        lengths = part.documents["tokens"]
        index = open_index(part.folder, split, lengths, end is not None, data.packing, data.sequence_length, data.seed)
        if index.num_rows == 0:
            raise UserError(f"the split {split!r} of {part.folder} has no tokens")
        opened.append(_Packed(part, index, end, data.cross_document_attention, data.sequence_length))
    return opened


def _weights(dataset: Dataset, data: Data) -> list[float]:
    """The weights of the option; those that a mixture was made with when the option names its folder alone."""
    given = [source.weight for source in data.sources()]
    return given if len(given) == len(dataset.members) else dataset.about["weights"]


def _row_order(sources: list[_Packed], weights: list[float], seed: int, split: str) -> Any:
    """What stands at each place of the endless sequence of rows: (source, epoch, row of its index)."""
    import grain

    class Rows(grain.MapDataset):
        """Rows of one source; an index past the end is in a later epoch."""

        def __init__(self, source: int, length: int) -> None:
            super().__init__()
            self._source, self._length = source, length

        def __len__(self) -> int:
            return self._length

        def __getitem__(self, index: Any) -> Any:
            return (self._source, *divmod(index, self._length))

    orders = [
        Rows(k, source.index.num_rows).shuffle(seed=stable_hash(seed, split, k)).repeat()
        for k, source in enumerate(sources)
    ]
    if len(orders) == 1:
        return orders[0]
    return grain.MapDataset.mix(orders, weights)


class _Source:
    """A function of n as a random-access source for grain."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, n: Any) -> Any:
        return self._function(int(n))


def _read_ahead(source: _Source, start: int, stop: int | None, prefetch: int) -> Any:
    import grain

    # One thread: batches are small pieces of Python and numpy, which several threads would only contend for.
    options = grain.ReadOptions(num_threads=1 if prefetch else 0, prefetch_buffer_size=prefetch)
    return iter(grain.MapDataset.source(source)[slice(start, stop)].to_iter_dataset(options))
