"""From files of pairs to the arrays of a dataset folder, and the rows of such a folder.

SPLIT.ids.npy       the ids of all sources and targets, end to end, each with its mark of the end
SPLIT.pairs.npy     one entry per pair (PAIR)
pairs.json          the files of each split
"""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Iterator

import numpy as np

from model.errors import UserError
from train.data.batches.order import stable_hash
from train.data.conversations.prepare import prepare_rows
from train.data.conversations.rows import Row, read_rows
from train.data.interface import CheckTokenizer
from train.data.pairs.option import Pairs
from train.data.preferences.option import HeldOutPrompts, SeparatePreferences
from train.data.preferences.stored import read_stored_array
from train.data.prepare.progress import Reporter
from train.data.shards import dataset
from train.data.tokenizers.interface import Tokenizer, ids_with_end
from train.files.files import read_json, write_array, write_json
from train.files.paths import AnyPath, expand_paths
from train.files.remote import local_copy

FILE = "pairs.json"
TRAIN, VALIDATION = "train", "validation"
# Where the ids of a pair are, how many its source and its target have; the file, as its number, and the line.
PAIR = np.dtype([("start", "<i8"), ("source", "<i4"), ("target", "<i4"), ("file", "<i4"), ("line", "<i8")])


def prepare_pairs(
    data: Pairs, folder: pathlib.Path, progress: Reporter | None, check: CheckTokenizer | None
) -> pathlib.Path:
    """Fills a folder with the tokens of pairs; see `train.data.conversations.prepare.prepare_rows`.

    Raises UserError, with file and line, for rows that are no pairs, and for pairs that are too long, if these are not
    dropped.
    """
    data, progress = expand_paths(data, "data"), progress or Reporter()
    return prepare_rows(data, folder, check, lambda tokenizer: _Preparation(data, tokenizer, progress).run(folder))


def text_of(row: Row, name: str) -> str:
    """One side of a row. Raises UserError, which begins with the row's place, where it is no text."""
    value = row.fields.get(name)
    if isinstance(value, str) and value:
        return value
    found = ", ".join(map(repr, list(row.fields)[:8])) or "none"
    got = f"{value!r:.40}" if name in row.fields else f"no such field (its fields are {found})"
    raise UserError(f'{row.where}: {name!r} is {got}; expected a text, as in {{"source": "abc", "target": "cba"}}')


class _Preparation:
    """Reads the rows of one option and writes their arrays."""

    def __init__(self, data: Pairs, tokenizer: Tokenizer, progress: Reporter) -> None:
        self.data, self.tokenizer, self.progress = data, tokenizer, progress
        self.ids: dict[str, list[int]] = collections.defaultdict(list)
        self.pairs: dict[str, list[tuple[int, ...]]] = {TRAIN: [], VALIDATION: []}
        self.files: dict[str, list[str]] = {TRAIN: [], VALIDATION: []}
        self.dropped: dict[str, list[str]] = collections.defaultdict(list)

    def run(self, folder: pathlib.Path) -> None:
        """Reads, encodes and writes; the description comes last, and marks the folder as finished."""
        with self.progress.stage("encoding pairs", 0) as stage:
            for split, row in self._rows():
                stage.advance(documents=1, tokens=self._add(split, row))
        for split, places in self.dropped.items():
            self.progress.message(
                f"WARNING: {len(places):,} pairs of the {split} split have more tokens than data.source_length="
                f"{self.data.source_length} or data.sequence_length={self.data.sequence_length} and were left out "
                f"(data.too_long), the first {places[0]}"
            )
        for split, pairs in self.pairs.items():
            if not pairs:
                mend = "give more rows, hold out another share of them, or allow longer ones"
                raise UserError(f"{self.data.path}: no pair is left for the {split} split; {mend}")
            write_array(folder / f"{split}.ids.npy", np.array(self.ids[split], np.int32))
            write_array(folder / f"{split}.pairs.npy", np.array(pairs, PAIR))
        write_json(folder / FILE, self.files)
        empty = dataset.describe_split([]) | dataset.unrestored_entry([])
        described = dataset.describe(self.tokenizer, folder) | {"splits": dict.fromkeys(self.pairs, empty)}
        dataset.write_dataset(folder, described, {})

    def _rows(self) -> Iterator[tuple[str, Row]]:
        option = self.data.validation
        for row in read_rows(self.data.path):
            held_out = (
                isinstance(option, HeldOutPrompts)
                and stable_hash(option.seed, text_of(row, "source")) < option.fraction * 2**32
            )
            yield VALIDATION if held_out else TRAIN, row
        if isinstance(option, SeparatePreferences):
            yield from ((VALIDATION, row) for row in read_rows(option.path))

    def _add(self, split: str, row: Row) -> int:
        """Adds a row; returns the number of its tokens, 0 if it was dropped."""
        limits = {"source": self.data.source_length, "target": self.data.sequence_length}
        sides = {name: ids_with_end(self.tokenizer, text_of(row, name)) for name in limits}
        for name, ids in sides.items():
            if len(ids) <= limits[name]:
                continue
            if self.data.too_long == "drop":
                self.dropped[split].append(row.where)
                return 0
            field = "source_length" if name == "source" else "sequence_length"
            raise UserError(
                f"{row.where}: the {name} has {len(ids):,} tokens, more than data.{field}={limits[name]}; set it "
                "higher, or leave such pairs out with data.too_long='drop'. None is cut"
            )
        file, _, line = row.name.rpartition(":")
        if file not in self.files[split][-1:]:
            self.files[split].append(file)
        place = len(self.ids[split]), len(sides["source"]), len(sides["target"])
        self.pairs[split].append((*place, len(self.files[split]) - 1, int(line)))
        self.ids[split] += [*sides["source"], *sides["target"]]
        return place[1] + place[2]


class StoredPairs:
    """The pairs of a split, with random access."""

    def __init__(self, folder: AnyPath, split: str) -> None:
        """Args: the dataset folder, the name of the split."""
        names = {FILE, f"{split}.ids.npy", f"{split}.pairs.npy"}
        self._folder = local_copy(folder, names.__contains__)
        self._ids, self.pairs = (read_stored_array(self._folder / f"{split}.{name}.npy") for name in ("ids", "pairs"))
        self._files = list(read_json(self._folder / FILE, schema={split: [str]})[split])

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.pairs)

    def sides(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids of the source and of the target of a pair."""
        entry = self.pairs[row]
        middle = int(entry["start"]) + int(entry["source"])
        return self._ids[int(entry["start"]) : middle], self._ids[middle : middle + int(entry["target"])]

    def name(self, row: int) -> str:
        """The file and the line of a pair."""
        entry = self.pairs[row]
        return f"{self._files[entry['file']]}:{entry['line']}"
