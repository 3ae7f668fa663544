"""Batches of text with spans taken out: batch n is a pure function of the data, the seed and n.

The fields are those of pairs (train/data/pairs/batches.py): the source [rows, S], whose documents are `PADDING` after
its end; the targets [rows, T]; the tokens, which are the targets one place later.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.encoder.source import PADDING
from model.errors import UserError
from train.data.batches.coverage import Coverage
from train.data.batches.pipeline import Batches, EvaluationBatches
from train.data.batches.prefetch import EndlessBatches, OnePass
from train.data.batches.rows import Batch, DocumentSpan
from train.data.batches.unpacked import check_row_fields
from train.data.pairs.batches import FORMATS, rows_of_pairs
from train.data.prepare.summary import documents_of_step
from train.data.shards.dataset import Dataset
from train.data.span_corruption.corruption import draw_hidden, hidden_and_spans, take_out
from train.data.span_corruption.option import SpanCorruption
from train.data.tokenizers.interface import Tokenizer
from train.evaluation.probes.interface import generators


class _Filler:
    """Makes the fields of rows of text."""

    def __init__(self, dataset: Dataset, data: SpanCorruption, split: str, fields: Sequence[str] | None) -> None:
        self.data, self.split = data, split
        self.fields = check_row_fields(FORMATS if fields is None else fields, FORMATS, "text with hidden spans")
        tokenizer = dataset.tokenizer
        last_of_own = tokenizer.vocab_size + data.num_sentinels - 1
        self.first_sentinel = last_of_own if data.first_sentinel is None else data.first_sentinel
        self.end = tokenizer.end_of_document if data.final == "end" else None
        if data.final == "end" and self.end is None:
            raise UserError(
                "data.final='end': the tokenizer has no mark that ends documents; take 'sentinel', or a tokenizer that "
                "has one, such as Bytes()"
            )
        # Each token of the text once: with a mark that begins documents, targets leave none out.
        self.ids_field = "tokens" if tokenizer.begin_of_document is None else "targets"

    def num_targets(self, length: int) -> int:
        """The number of counted targets of a row with `length` tokens of text."""
        hidden, spans = hidden_and_spans(length, self.data.noise_density, self.data.mean_span_length)
        return hidden + spans + 1 if spans else 0

    def pair(self, ids: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids of the source and of the target of a row, which has this number in its split."""
        data, (generator,) = self.data, generators(self.data.seed, self.split, [number])
        hidden = draw_hidden(len(ids), data.noise_density, data.mean_span_length, generator)
        source, target, final = take_out(ids, hidden, self.first_sentinel)
        if self.end is not None:
            source, final = np.append(source, self.end), self.end
        return source, np.append(target, final) if hidden.any() else target

    def batch(self, text: Batch, numbers: Sequence[int]) -> Batch:
        """The fields of the rows of `text`, which have these numbers."""
        rows = zip(text[self.ids_field], text["segment_ids"], numbers, strict=True)
        texts = ((ids[segment_ids > 0], number) for ids, segment_ids, number in rows)
        sides = [self.pair(ids, number) if len(ids) else None for ids, number in texts]
        return rows_of_pairs(sides, self.data.source_length, self.data.sequence_length, self.fields)


class SpanBatches(EndlessBatches[SpanCorruption]):
    """Endless batches of text with hidden spans."""

    def __init__(
        self, dataset: Dataset, data: SpanCorruption, split: str = "train", fields: Sequence[str] | None = None
    ) -> None:
        """Args: the dataset folder, the option, the name of the split, the fields to make (all by default)."""
        self.data, self.dataset, self.filler = data, dataset, _Filler(dataset, data, split, fields)
        self.fields = self.filler.fields
        self._text = Batches(dataset, data.as_data(), split, (self.filler.ids_field, "segment_ids"))

    def rows(self, n: int, rows: Sequence[int] | None = None) -> Batch:
        """The given rows of global batch n, all of them by default."""
        wanted = range(self.data.batch_size_at(n)) if rows is None else rows
        first = self.data.rows_before(n)
        return self.filler.batch(self._text.rows(n, wanted), [first + row for row in wanted])

    def num_targets(self, n: int) -> int:
        """The number of counted targets in global batch n, over the rows of all hosts; reads no token."""
        return sum(map(self.filler.num_targets, self._text.lengths(n)))

    def documents(self, n: int, rows: Sequence[int] | None = None, characters: int = 60) -> list[DocumentSpan]:
        """The spans of documents in the text of batch n, each with the beginning of its text."""
        return self._text.documents(n, rows, characters)


class SpanEvaluation(OnePass):
    """One pass over a split, whose hidden spans are always the same ones; the last batch is padded."""

    def __init__(
        self,
        dataset: Dataset,
        data: SpanCorruption,
        split: str = "validation",
        limit: int | None = None,
        rows: Sequence[int] | None = None,
        fields: Sequence[str] | None = None,
    ) -> None:
        """Args: the dataset folder, the option, the split, the most batches, the rows of this host, the fields."""
        self.data, self.filler = data, _Filler(dataset, data, split, fields)
        self._text = EvaluationBatches(dataset, data.as_data(), split, limit=limit, rows=rows)
        tokens = data.source_length + data.sequence_length
        super().__init__(self._text.num_rows, data.batch_size, limit, rows, tokens, data.prefetch)

    @functools.cached_property
    def coverage(self) -> Coverage:
        """The counted targets of all batches; they stand for no bytes."""
        rows = range(min(self.num_batches * self.data.batch_size, self._text.num_rows))
        return Coverage(tokens=sum(self.filler.num_targets(self._text.length(number)) for number in rows))

    def batch(self, n: int) -> Batch:
        """Batch n of `num_batches`."""
        first = n * self.data.batch_size
        return self.filler.batch(self._text.batch(n), [first + row for row in self._rows])


def shown_step(batches: SpanBatches, step: int, rows: Sequence[int] | None, characters: int) -> str:
    """The documents of the batch of the update to step `step`, then the source and the target of its rows.

    <0>, <1> and so on stand for sentinels. Both are cut after `characters`.
    """
    wanted = range(batches.data.batch_size) if rows is None else rows
    text: Any = batches
    lines = [documents_of_step(text, step, rows, characters)]
    filler = SpanBatches(batches.dataset, batches.data)
    made, first = filler.rows(step - 1, wanted), filler.filler.first_sentinel
    for place, row in enumerate(wanted):
        source = made["source"][place][made["source_segment_ids"][place] != PADDING]
        target = made["targets"][place][made["weights"][place] > 0]
        sides = (_with_sentinels(side, first, batches)[:characters] for side in (source, target))
        lines.append(f"row {row:>4} " + " -> ".join(map(repr, sides)))
    return "\n".join(lines)


def _with_sentinels(ids: np.ndarray, first: int, batches: SpanBatches) -> str:
    """The text of ids, with <0> for the first sentinel."""
    tokenizer: Tokenizer = batches.dataset.tokenizer
    places = np.flatnonzero((ids <= first) & (ids > first - batches.data.num_sentinels))
    parts = [tokenizer.decode(part[k > 0 :]) for k, part in enumerate(np.split(ids, places))]
    names = ["", *(f"<{first - ids[place]}>" for place in places)]
    return "".join(name + part for name, part in zip(names, parts, strict=True))
