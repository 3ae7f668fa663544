"""Batches of preferences: batch n is a pure function of the data, the seed and n.

Every array is [rows, T]. A pair has the fields `chosen_` and `rejected_` tokens, targets and weights: ids of prompt and
answer, the id after each, and 1 where that id belongs to the answer; and `margin`. A labelled answer has tokens,
targets and weights, its `label` (1 or 0), and `other_` tokens, targets and weights: its prompt with the answer of the
next row of the split that has another prompt and fits, from which KTO estimates a divergence. A number of a row stands
at all T places, so that all arrays are split over devices alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from model.errors import UserError
from model.options.words import nearest
from train.data.batches.coverage import Coverage
from train.data.batches.order import row_order
from train.data.batches.prefetch import EndlessBatches, read_ahead
from train.data.batches.rows import Batch, DocumentSpan
from train.data.preferences.option import Preferences
from train.data.preferences.stored import StoredPreferences
from train.data.shards.dataset import Dataset

FORMATS = {"tokens": np.int32, "targets": np.int32, "weights": np.float32, "label": np.float32, "margin": np.float32}


MOST_TRIED = 1000  # rows that are tried for an answer to another prompt


class _Filler:
    """Makes the fields of rows of a split."""

    def __init__(self, dataset: Dataset, data: Preferences, split: str, fields: Sequence[str] | None) -> None:
        self.data, self.tokenizer = data, dataset.tokenizer
        # Texts end before their padding, which no token of them sees: segments and positions would tell nothing.
        wanted = data.fields if fields is None else fields
        self.fields = tuple(name for name in dict.fromkeys(wanted) if name not in ("segment_ids", "positions"))
        for name in self.fields:
            if name not in data.fields:
                raise UserError(f"no field of {data.form} is called {name!r}; {nearest(name, data.fields)}")
        self.stored = StoredPreferences(dataset.folder, split, 2 if data.form == "pairs" else 1)
        if not self.stored.num_rows:
            raise UserError(f"{dataset.folder}: the {split} split has no row; give more rows, or another share of them")
        if split == "train" and fields is not None and "margin" in fields and not self.stored.answers["margin"].any():
            raise UserError(
                f"{dataset.folder}: no row has a margin above 0; give rows the field 'margin', or "
                "leave margins out of the loss (objective.margins=False)"
            )

    def batch(self, numbers: Sequence[int], wanted: Sequence[int]) -> Batch:
        """The wanted rows of a batch whose rows have these numbers in the split; -1 stands for a row of padding."""
        shape = (len(wanted), self.data.sequence_length)
        batch = {name: np.zeros(shape, FORMATS[name.rpartition("_")[2]]) for name in self.fields}
        for place, row in enumerate(wanted):
            if numbers[row] >= 0:
                self._fill({name: array[place] for name, array in batch.items()}, numbers[row])
        return batch

    def _fill(self, arrays: Batch, number: int) -> None:
        entries = self.stored.entries(number)
        first = self.stored.answers[entries[0]]
        for name in ("label", "margin"):
            if name in arrays:
                arrays[name][:] = first[name]
        for prefix, entry in zip(("chosen_", "rejected_") if len(entries) == 2 else ("",), entries, strict=True):
            _write(arrays, prefix, *self.stored.sequence(entry))
        if len(entries) == 1 and any(name.startswith("other_") for name in arrays):
            mismatch = self._mismatch(number)
            if mismatch is not None:
                _write(arrays, "other_", *mismatch)

    def _mismatch(self, number: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The prompt of a row with the answer of the next row that has another prompt and fits; None without one."""
        answers, count = self.stored.answers, self.stored.num_rows
        prompt = self.stored.sequence(number)[0][: answers[number]["prompt"]]
        for step in range(1, min(count, MOST_TRIED)):
            other, counted = self.stored.sequence((number + step) % count)
            begin = int(answers[(number + step) % count]["prompt"])
            if len(prompt) + len(other) - begin > self.data.sequence_length or np.array_equal(other[:begin], prompt):
                continue
            unseen = np.zeros(len(prompt), bool)
            return np.concatenate([prompt, other[begin:]]), np.concatenate([unseen, counted[begin:]])
        return None


def _write(arrays: Batch, prefix: str, ids: np.ndarray, counted: np.ndarray) -> None:
    if f"{prefix}tokens" in arrays:
        arrays[f"{prefix}tokens"][: len(ids)] = ids
    if f"{prefix}targets" in arrays:
        arrays[f"{prefix}targets"][: len(ids) - 1] = ids[1:]
    if f"{prefix}weights" in arrays:
        arrays[f"{prefix}weights"][: len(ids) - 1] = counted[1:]


class PreferenceBatches(EndlessBatches[Preferences]):
    """Endless batches with the methods of `train.data.batches.pipeline.Batches`."""

    def __init__(
        self, dataset: Dataset, data: Preferences, split: str = "train", fields: Sequence[str] | None = None
    ) -> None:
        """Args: the dataset folder, the option, the name of the split, the fields to make (all by default)."""
        self.dataset, self.data, self.split = dataset, data, split
        self._filler = _Filler(dataset, data, split, fields)
        self.stored, self.fields = self._filler.stored, self._filler.fields
        self._order = row_order([self.stored.num_rows], [1.0], data.seed, split)

    def numbers(self, n: int) -> list[int]:
        """The numbers, in the split, of the rows of global batch n."""
        first = self.data.rows_before(n)
        return [int(self._order[first + row][2]) for row in range(self.data.batch_size_at(n))]

    def rows(self, n: int, rows: Sequence[int] | None = None) -> Batch:
        """The given rows of global batch n, all of them by default."""
        return self._filler.batch(self.numbers(n), range(self.data.batch_size_at(n)) if rows is None else rows)

    def num_targets(self, n: int) -> int:
        """The number of counted targets in global batch n, over the rows of all hosts; reads no token."""
        targets = self.stored.answers["targets"]
        return int(sum(targets[entry] for number in self.numbers(n) for entry in self.stored.entries(number)))

    def documents(self, n: int, rows: Sequence[int] | None = None, characters: int = 60) -> list[DocumentSpan]:
        """A span for each answer in batch n, with the beginning of its text after the prompt."""
        found, numbers = [], self.numbers(n)
        for row in range(len(numbers)) if rows is None else rows:
            for entry in self.stored.entries(numbers[row]):
                answer = self.stored.answers[entry]
                ids = self.stored.sequence(entry)[0][answer["prompt"] :]
                text = self._filler.tokenizer.decode(ids[: characters + 8])[:characters]
                begin, length = int(answer["prompt"]), int(answer["length"])
                name = self.stored.name(numbers[row])
                found.append(DocumentSpan(row, begin, len(ids), 0, entry, name, begin, length, length, text))
        return found


class PreferenceEvaluation:
    """One pass over a split in the order of its rows; the last batch is padded. Iteration reads ahead."""

    def __init__(
        self,
        dataset: Dataset,
        data: Preferences,
        split: str = "validation",
        limit: int | None = None,
        rows: Sequence[int] | None = None,
        fields: Sequence[str] | None = None,
    ) -> None:
        """Args: the dataset folder, the option, the split, the most batches, the rows of this host, the fields."""
        self.data = data
        self._filler = _Filler(dataset, data, split, fields)
        self.stored = self._filler.stored
        self._rows = range(data.batch_size) if rows is None else rows
        available = -(-self.stored.num_rows // data.batch_size)
        self.num_batches = available if limit is None else min(available, limit)

    @property
    def coverage(self) -> Coverage:
        """The counted targets of all batches."""
        rows = min(self.num_batches * self.data.batch_size, self.stored.num_rows)
        answers = self.stored.answers["targets"][: rows * len(self.stored.entries(0))]
        return Coverage(tokens=int(answers.sum()))

    def numbers(self, n: int) -> list[int]:
        """The numbers of the rows of batch n; -1 for padding."""
        first = n * self.data.batch_size
        return [i if i < self.stored.num_rows else -1 for i in range(first, first + self.data.batch_size)]

    def batch(self, n: int) -> Batch:
        """Batch n of `num_batches`."""
        return self._filler.batch(self.numbers(n), self._rows)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        tokens = max(1, 2 * len(self._rows)) * self.data.sequence_length
        return read_ahead(self.batch, range(self.num_batches), tokens, min(4, self.data.prefetch))
