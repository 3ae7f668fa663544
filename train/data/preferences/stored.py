"""The tokens of preferences on the disk: three arrays a split, in a dataset folder.

SPLIT.ids.npy       the ids of all answers, each with its prompt, end to end
SPLIT.counted.npy   whether each id belongs to an answer
SPLIT.answers.npy   one entry per answer (ANSWER); the answers of pair i are entries 2 i (better) and 2 i + 1
preferences.json    the options and the files that these were made from
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from model.errors import UserError
from train.data.preferences.reading import Preference
from train.data.preferences.rendering import Rendered
from train.files.files import cannot_read, read_json, write_array
from train.files.paths import AnyPath
from train.files.remote import local_copy

FILE = "preferences.json"
HOW_TO_FIX = "delete the folder to prepare it again"
# Where the ids of an answer are; how many there are, how many of the prompt, and how many are counted targets; its
# label, and the margin of its pair; the file, as its number, and the line that it came from.
ANSWER = np.dtype(
    [
        ("start", "<i8"),
        ("length", "<i4"),
        ("prompt", "<i4"),
        ("targets", "<i4"),
        ("label", "?"),
        ("margin", "<f4"),
        ("file", "<i4"),
        ("line", "<i8"),
    ]
)
NAMES = ("ids", "counted", "answers")


class Writer:
    """Collects the rows of a split."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self._ids: list[np.ndarray] = []
        self._counted: list[np.ndarray] = []
        self._answers: list[tuple[Any, ...]] = []
        self.size = 0

    def add(self, row: Preference, answers: Iterable[Rendered]) -> None:
        """Adds a row."""
        name, _, line = row.name.rpartition(":")
        if not self.files or self.files[-1] != name:
            self.files.append(name)
        file = len(self.files) - 1
        margin = 0.0 if row.margin is None else row.margin
        for i, (ids, counted, prompt) in enumerate(answers):
            label = row.label if row.label is not None else i == 0
            place = (self.size, len(ids), prompt, int(counted[1:].sum()))
            self._answers.append((*place, label, margin, file, int(line)))
            self._ids.append(ids)
            self._counted.append(counted)
            self.size += len(ids)

    def write(self, folder: pathlib.Path, split: str) -> None:
        """Writes the arrays of the split."""
        arrays = {
            "ids": np.concatenate([np.zeros(0, np.int32), *self._ids]).astype(np.int32),
            "counted": np.concatenate([np.zeros(0, bool), *self._counted]),
            "answers": np.array(self._answers, ANSWER),
        }
        for name, array in arrays.items():
            write_array(folder / f"{split}.{name}.npy", array)


def read_stored_array(path: pathlib.Path) -> np.ndarray:
    """An array of a split, in memory if it is small. Raises UserError for one that is missing or damaged."""
    try:
        return np.load(path, mmap_mode="r" if path.stat().st_size > 1 << 20 else None, allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError) as error:
        raise UserError(f"{path} is missing or damaged: {error}; {HOW_TO_FIX}") from None
    except OSError as error:
        raise cannot_read(path, error) from error


class StoredPreferences:
    """The rows of a split, with random access."""

    def __init__(self, folder: AnyPath, split: str, answers_per_row: int) -> None:
        """Args: the dataset folder, the name of the split, 2 for pairs and 1 for labelled answers."""
        self.split, self._per_row = split, answers_per_row
        self._folder = local_copy(folder, {FILE, *(f"{split}.{name}.npy" for name in NAMES)}.__contains__)
        arrays = (read_stored_array(self._folder / f"{split}.{name}.npy") for name in NAMES)
        self._ids, self._counted, self.answers = arrays
        if len(self.answers) and int(self.answers["start"][-1] + self.answers["length"][-1]) != len(self._ids):
            raise UserError(f"{self._folder}: the arrays of {split} do not fit together; {HOW_TO_FIX}")
        self._files = list(read_json(self._folder / FILE, schema={split: [str]})[split])

    @property
    def num_rows(self) -> int:
        """The number of pairs, or of labelled answers."""
        return len(self.answers) // self._per_row

    def entries(self, row: int) -> range:
        """The numbers of the answers of a row."""
        return range(row * self._per_row, (row + 1) * self._per_row)

    def sequence(self, answer: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids of an answer with its prompt, and which of them count."""
        entry = self.answers[answer]
        part = slice(int(entry["start"]), int(entry["start"]) + int(entry["length"]))
        return self._ids[part], self._counted[part]

    def name(self, row: int) -> str:
        """The file and the line of a row."""
        entry = self.answers[row * self._per_row]
        return f"{self._files[entry['file']]}:{entry['line']}"

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all tokens and of which of them count: rows with the same hash have the same log-probabilities."""
        content = hashlib.sha256()
        for array in (self._ids, self._counted, self.answers["start"], self.answers["length"]):
            content.update(np.ascontiguousarray(array).tobytes())
        return content.hexdigest()
