"""A dataset folder: its description, its splits, the tokens of any span of any document."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.errors import UserError
from train.data.shards.shards import DOCUMENT_DTYPE, HOW_TO_FIX, RECORD_TOKENS, SHARD_SCHEMA, Shard, ShardReader
from train.data.tokenizers.interface import TOKENIZER_OPTION_FILE, Tokenizer, load_tokenizer
from train.data.tokenizers.unrestored import UnrestoredText
from train.files.files import cannot_read, read_json, write_array, write_json
from train.files.paths import AnyPath, is_remote, literal_path, user_path
from train.files.remote import convert_read_errors, local_copy
from train.terminal.formatting import format_counted

FORMAT = 1
DATASET_FILE = "dataset.json"
COUNTS = ("documents", "tokens", "bytes", "words")
SPLIT_SCHEMA = dict.fromkeys(COUNTS, int) | {
    "shards?": [SHARD_SCHEMA],
    "not_restored?": {"documents": int, "bytes": int},
}
SCHEMA = {"vocab_size": int, "end_of_document": (int, type(None)), "tokenizer": {"type": str}}
SCHEMA |= {"splits": {...: SPLIT_SCHEMA}, "members?": [str], "weights?": [float]}


def unrestored_entry(counts: Sequence[dict[str, int] | None]) -> dict[str, Any]:
    """The entry of a description for the text that decoding does not restore, summed; empty if a part is unknown."""
    known = [UnrestoredText(**count) for count in counts if count is not None]
    return {"not_restored": dataclasses.asdict(sum(known, UnrestoredText()))} if len(known) == len(counts) else {}


class Split:
    """The documents of one split of one source, numbered from 0 in the order of the source."""

    def __init__(self, folder: AnyPath, name: str, description: dict[str, Any]) -> None:
        self.folder = folder
        self.name = name
        self._description = description
        self.shards = [Shard(**shard) for shard in description["shards"]]
        self.num_documents, self.num_tokens, self.num_bytes, self.num_words = (int(description[key]) for key in COUNTS)
        for key in COUNTS:
            if description[key] != sum(getattr(shard, key) for shard in self.shards):
                raise ValueError(f"{name}: its {description[key]} {key} are not those of its shards")

    @functools.cached_property
    def local(self) -> pathlib.Path:
        """The folder, or a copy of the split's files where it lies in a store; its shards' checksums decide which."""
        files = {shard.file for shard in self.shards} | {f"{self.name}.documents.npy"}
        return local_copy(self.folder, files.__contains__, json.dumps([self.name, self._description]))

    @functools.cached_property
    def documents(self) -> np.ndarray:
        """One row per document: tokens, bytes, words, first record (shards.DOCUMENT_DTYPE); read as needed."""
        path = self.local / f"{self.name}.documents.npy"
        try:
            table = np.load(path, mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError) as error:
            raise UserError(f"{path} is missing or damaged: {error}; {HOW_TO_FIX}") from None
        except OSError as error:
            raise cannot_read(path, error) from error
        if table.dtype != DOCUMENT_DTYPE or len(table) != self.num_documents:
            raise UserError(f"{path} is damaged: {len(table)} rows, expected {self.num_documents}; {HOW_TO_FIX}")
        return table

    @functools.cached_property
    def reader(self) -> ShardReader:
        """The records of the split; opening checks the sizes of the shards."""
        return ShardReader(self.local, self.shards)

    @functools.cached_property
    def _lengths(self) -> np.ndarray:
        return np.asarray(self.documents["tokens"], np.int64)

    @functools.cached_property
    def _records(self) -> np.ndarray:
        return np.asarray(self.documents["record"], np.int64)

    def length(self, document: int) -> int:
        """The number of tokens of a document."""
        return int(self._lengths[document])

    def tokens(self, document: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Tokens [start, stop) of a document, in the shards' unsigned type; raises UserError for a damaged shard."""
        stop = self.length(document) if stop is None else stop
        if start >= stop:
            return np.zeros(0, np.uint8)
        before = start // RECORD_TOKENS * RECORD_TOKENS
        parts = [self.reader.read(number).tokens for number in self.records(document, start, stop)]
        tokens = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return tokens[start - before : stop - before]

    def records(self, document: int, start: int, stop: int) -> range:
        """The numbers of the records that hold tokens [start, stop) of a document; always at least one."""
        first = int(self._records[document])
        return range(first + start // RECORD_TOKENS, first + max(stop - 1, start) // RECORD_TOKENS + 1)

    def document_name(self, document: int) -> str:
        """The name of a document: the file that it came from, and the line where a file has many."""
        return self.reader.read(int(self._records[document])).name


class Dataset:
    """An open dataset folder. A mixture has dataset folders as members; any other dataset is its only member."""

    def __init__(self, folder: AnyPath, description: dict[str, Any]) -> None:
        self.folder = folder
        self.description = description
        self.vocab_size = int(description["vocab_size"])
        self.end_of_document: int | None = description["end_of_document"]
        self.members: list[Dataset] = [self]
        if "members" in description:
            self.members = [
                open_dataset(member if is_remote(member) else folder / member) for member in description["members"]
            ]
        self.splits: dict[str, Split] = {}
        if "members" not in description:
            self.splits = {name: Split(folder, name, split) for name, split in description["splits"].items()}

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the dataset."""
        return load_tokenizer(self.folder)

    def split(self, name: str) -> list[Split]:
        """The splits of that name, one for each member that has it. Raises UserError when no member has it."""
        found = [member.splits[name] for member in self.members if name in member.splits]
        if not found:
            available = ", ".join(self.description["splits"]) or "a tokenizer and no text"
            raise UserError(f"{self.folder} has no split {name!r}; it has {available}")
        return found

    def count(self, split: str, quantity: str) -> int:
        """The number of `documents`, `tokens`, `bytes` or `words` in a split; 0 where there is no such split."""
        return int(self.description["splits"].get(split, {}).get(quantity, 0))

    def unrestored(self, split: str) -> UnrestoredText | None:
        """The text of a split that decoding its tokens does not restore.

        None where it is unknown: the dataset was prepared before Cairn counted it, with a tokenizer that may lose text.
        """
        counted = self.description["splits"].get(split, {}).get("not_restored")
        if counted is not None:
            return UnrestoredText(counted["documents"], counted["bytes"])
        return UnrestoredText() if self.tokenizer.is_lossless() else None

    def unrestored_in_words(self, split: str) -> str | None:
        """The unrestored text of a split in a few words, to print beside its bits per byte; None if all is restored."""
        unrestored = self.unrestored(split)
        if unrestored is None:
            return "bytes that the tokenizer loses: unknown"
        if not unrestored.documents:
            return None
        share = unrestored.bytes / max(1, self.count(split, "bytes"))
        documents = format_counted(unrestored.documents, "document")
        return f"the tokenizer loses {format_counted(unrestored.bytes, 'byte')} ({share:.2%}), in {documents}"


def is_dataset(path: str | AnyPath) -> bool:
    """Whether a folder is a finished dataset; a folder of text may have a dataset.json too, but no tokenizer."""
    folder = user_path(path)
    with convert_read_errors(folder):
        return (folder / DATASET_FILE).is_file() and (folder / TOKENIZER_OPTION_FILE).is_file()


def open_dataset(path: str | AnyPath) -> Dataset:
    """Opens a dataset folder. Raises UserError when it is no dataset, or unfinished, damaged or of another format."""
    folder = user_path(path)
    if not is_dataset(folder):
        raise UserError(f"{folder} is not a finished dataset: it has no {DATASET_FILE}; make one with launch.tokenize")
    description = read_json(folder / DATASET_FILE)
    if description.get("format") != FORMAT:
        raise UserError(
            f"{folder / DATASET_FILE}: format {description.get('format')!r}, expected {FORMAT}; prepare the data again"
        )
    description = read_json(folder / DATASET_FILE, "prepare the data again", SCHEMA)
    try:
        return Dataset(folder, description)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder / DATASET_FILE} is damaged ({error!r}); prepare the data again") from None


def describe(tokenizer: Tokenizer, folder: pathlib.Path) -> dict[str, Any]:
    """The entries of dataset.json about the format and the tokenizer."""
    saved = read_json(folder / TOKENIZER_OPTION_FILE)
    return {
        "format": FORMAT,
        **saved,
        "vocab_size": tokenizer.vocab_size,
        "end_of_document": tokenizer.end_of_document,
    }


def write_dataset(folder: pathlib.Path, description: dict[str, Any], tables: dict[str, np.ndarray]) -> None:
    """Writes the tables of documents, then the description, which marks the dataset as finished."""
    for name, table in tables.items():
        write_array(folder / f"{name}.documents.npy", table)
    write_json(folder / DATASET_FILE, description)


def describe_split(shards: list[Shard]) -> dict[str, Any]:
    """The description of a split, from the descriptions of its shards."""
    listed = [dataclasses.asdict(shard) for shard in shards]
    return {key: sum(shard[key] for shard in listed) for key in COUNTS} | {"shards": listed}


def dataset_of_run(run: AnyPath) -> Dataset:
    """The dataset that a run trains on. Raises UserError when the run has none, or it is no longer where it was."""
    candidates: list[AnyPath] = [run / "data"]
    if (run / "data.json").is_file():
        path = read_json(run / "data.json").get("dataset")
        if not isinstance(path, str):
            raise UserError(f"{run / 'data.json'} is damaged: expected the path of a folder as 'dataset', got {path!r}")
        candidates.insert(0, literal_path(path))
    for folder in candidates:
        if is_dataset(folder):
            return open_dataset(folder)
    raise UserError(f"{run} has no dataset: looked in {' and '.join(map(str, candidates))}; is it a run folder?")
