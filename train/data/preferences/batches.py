"""Batches of preferences: batch n is a pure function of the data, the seed and n.

Every array is [rows, T]. A pair has the fields `chosen_` and `rejected_` tokens, targets and weights: ids of prompt and
answer, the id after each, and 1 where that id belongs to the answer; and `margin`. A labelled answer has tokens,
targets and weights, its `label` (1 or 0), and `other_` tokens, targets and weights: its prompt with the answer of the
next row of the split that has another prompt and fits, from which KTO estimates a divergence. A number of a row stands
at all T places, so that all arrays are split over devices alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.errors import UserError
from train.data.batches.coverage import Coverage
from train.data.batches.rows import Batch, DocumentSpan
from train.data.batches.unpacked import UnpackedBatches, UnpackedEvaluation, check_row_fields
from train.data.preferences.option import Preferences
from train.data.preferences.stored import StoredPreferences
from train.data.shards.dataset import Dataset

FORMATS = {"tokens": np.int32, "targets": np.int32, "weights": np.float32, "label": np.float32, "margin": np.float32}


MOST_TRIED = 1000  # rows that are tried for an answer to another prompt


class _Filler:
    """Makes the fields of rows of a split."""

    def __init__(self, dataset: Dataset, data: Preferences, split: str, fields: Sequence[str] | None) -> None:
        self.data = data
        self.fields = check_row_fields(data.fields if fields is None else fields, data.fields, data.form)
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


class PreferenceBatches(UnpackedBatches[Preferences]):
    """Endless batches of preferences."""

    def __init__(
        self, dataset: Dataset, data: Preferences, split: str = "train", fields: Sequence[str] | None = None
    ) -> None:
        """Args: the dataset folder, the option, the name of the split, the fields to make (all by default)."""
        filler = _Filler(dataset, data, split, fields)
        super().__init__(data, split, filler, filler.stored.num_rows, data.seed)
        self.dataset, self.stored = dataset, filler.stored

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
                text = self.dataset.tokenizer.decode(ids[: characters + 8])[:characters]
                begin, length = int(answer["prompt"]), int(answer["length"])
                name = self.stored.name(numbers[row])
                found.append(DocumentSpan(row, begin, len(ids), 0, entry, name, begin, length, length, text))
        return found


class PreferenceEvaluation(UnpackedEvaluation):
    """One pass over preferences."""

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
        filler = _Filler(dataset, data, split, fields)
        tokens, count = data.texts_of_row * data.sequence_length, filler.stored.num_rows
        super().__init__(filler, count, data.batch_size, limit, rows, tokens, data.prefetch)
        self.data, self.stored = data, filler.stored

    @property
    def coverage(self) -> Coverage:
        """The counted targets of all batches."""
        rows = min(self.num_batches * self.data.batch_size, self.stored.num_rows)
        answers = self.stored.answers["targets"][: rows * len(self.stored.entries(0))]
        return Coverage(tokens=int(answers.sum()))
