"""A dataset folder: its description, its splits, the tokens of any stretch of any document."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.errors import UserError
from train.data.shards.shards import DOCUMENT, MEND, RECORD_TOKENS, SHARD_FORM, Shard, ShardReader
from train.data.tokenizers.interface import DESCRIPTION as TOKENIZER
from train.data.tokenizers.interface import Tokenizer, load_tokenizer
from train.data.tokenizers.restored import Lost
from train.files.files import cannot_read, read_json, write_array, write_json
from train.files.paths import AnyPath, is_remote, literal_path, user_path
from train.files.remote import convert_read_errors, local_copy

FORMAT = 1
DESCRIPTION = "dataset.json"
COUNTS = ("documents", "tokens", "bytes", "words")
SPLIT_FORM = dict.fromkeys(COUNTS, int) | {
    "shards?": [SHARD_FORM],
    "not_restored?": {"documents": int, "bytes": int},
}
FORM = {"vocab_size": int, "end_of_document": (int, type(None)), "tokenizer": {"type": str}}
FORM |= {"splits": {...: SPLIT_FORM}, "members?": [str], "weights?": [float]}


def lost_about(counts: Sequence[dict[str, int] | None]) -> dict[str, Any]:
    """The entry of a description for the text that decoding loses, summed over parts; empty where a part is unknown."""
    known = [Lost(**count) for count in counts if count is not None]
    return {"not_restored": dataclasses.asdict(sum(known, Lost()))} if len(known) == len(counts) else {}


class Split:
    """The documents of one split of one source, numbered from 0 in the order of the source."""

    def __init__(self, folder: AnyPath, name: str, about: dict[str, Any]) -> None:
        self.folder = folder
        self.name = name
        self._about = about
        self.shards = [Shard(**shard) for shard in about["shards"]]
        self.num_documents, self.num_tokens, self.num_bytes, self.num_words = (int(about[key]) for key in COUNTS)
        for key in COUNTS:
            if about[key] != sum(getattr(shard, key) for shard in self.shards):
                raise ValueError(f"{name}: its {about[key]} {key} are not those of its shards")

    @functools.cached_property
    def local(self) -> pathlib.Path:
        """The folder, or a copy of the split's files where it lies in a store; its shards' checksums decide which."""
        files = {shard.file for shard in self.shards} | {f"{self.name}.documents.npy"}
        return local_copy(self.folder, files.__contains__, json.dumps([self.name, self._about]))

    @functools.cached_property
    def documents(self) -> np.ndarray:
        """One row per document: tokens, bytes, words, first record (see shards.DOCUMENT); read from disk as needed."""
        path = self.local / f"{self.name}.documents.npy"
        try:
            table = np.load(path, mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError) as error:
            raise UserError(f"{path} is missing or damaged: {error}; {MEND}") from None
        except OSError as error:
            raise cannot_read(path, error) from error
        if table.dtype != DOCUMENT or len(table) != self.num_documents:
            raise UserError(f"{path} is damaged: {len(table)} rows, expected {self.num_documents}; {MEND}")
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
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return joined[start - before : stop - before]

    def records(self, document: int, start: int, stop: int) -> range:
        """The numbers of the records that hold tokens [start, stop) of a document; always at least one."""
        first = int(self._records[document])
        return range(first + start // RECORD_TOKENS, first + max(stop - 1, start) // RECORD_TOKENS + 1)

    def document_name(self, document: int) -> str:
        """The name of a document: the file that it came from, and the line where a file has many."""
        return self.reader.read(int(self._records[document])).name


class Dataset:
    """An open dataset folder. A mixture has dataset folders as members; any other dataset is its only member."""

    def __init__(self, folder: AnyPath, about: dict[str, Any]) -> None:
        self.folder = folder
        self.about = about
        self.vocab_size = int(about["vocab_size"])
        self.end_of_document: int | None = about["end_of_document"]
        self.members: list[Dataset] = [self]
        if "members" in about:
            self.members = [
                open_dataset(member if is_remote(member) else folder / member) for member in about["members"]
            ]
        self.splits: dict[str, Split] = {}
        if "members" not in about:
            self.splits = {name: Split(folder, name, split) for name, split in about["splits"].items()}

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the dataset."""
        return load_tokenizer(self.folder)

    def split(self, name: str) -> list[Split]:
        """The splits of that name, one for each member that has it. Raises UserError when no member has it."""
        found = [member.splits[name] for member in self.members if name in member.splits]
        if not found:
            there = ", ".join(self.about["splits"]) or "a tokenizer and no text"
            raise UserError(f"{self.folder} has no split {name!r}; it has {there}")
        return found

    def count(self, split: str, what: str) -> int:
        """The number of `documents`, `tokens`, `bytes` or `words` in a split; 0 where there is no such split."""
        return int(self.about["splits"].get(split, {}).get(what, 0))

    def lost(self, split: str) -> Lost | None:
        """The text of a split that decoding its tokens loses.

        None where it is unknown: the dataset was prepared before Cairn counted it, with a tokenizer that may lose text.
        """
        counted = self.about["splits"].get(split, {}).get("not_restored")
        if counted is not None:
            return Lost(counted["documents"], counted["bytes"])
        return Lost() if self.tokenizer.is_lossless() else None

    def lost_in_words(self, split: str) -> str | None:
        """The lost text of a split in a few words, to print beside its bits per byte; None where nothing is lost."""
        lost = self.lost(split)
        if lost is None:
            return "bytes that the tokenizer loses: unknown"
        if not lost.documents:
            return None
        share = lost.bytes / max(1, self.count(split, "bytes"))
        return f"the tokenizer loses {lost.bytes:,} bytes ({share:.2%}), in {lost.documents:,} documents"


def is_dataset(path: str | AnyPath) -> bool:
    """Whether a folder is a finished dataset; a folder of text may have a dataset.json too, but no tokenizer."""
    folder = user_path(path)
    with convert_read_errors(folder):
        return (folder / DESCRIPTION).is_file() and (folder / TOKENIZER).is_file()


def open_dataset(path: str | AnyPath) -> Dataset:
    """Opens a dataset folder. Raises UserError when it is no dataset, or unfinished, damaged or of another format."""
    folder = user_path(path)
    if not is_dataset(folder):
        raise UserError(f"{folder} is not a finished dataset: it has no {DESCRIPTION}; make one with launch.tokenize")
    about = read_json(folder / DESCRIPTION)
    if about.get("format") != FORMAT:
        raise UserError(
            f"{folder / DESCRIPTION}: format {about.get('format')!r}, expected {FORMAT}; prepare the data again"
        )
    about = read_json(folder / DESCRIPTION, "prepare the data again", FORM)
    try:
        return Dataset(folder, about)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder / DESCRIPTION} is damaged ({error!r}); prepare the data again") from None


def describe(tokenizer: Tokenizer, folder: pathlib.Path) -> dict[str, Any]:
    """The entries of dataset.json about the format and the tokenizer."""
    saved = read_json(folder / "tokenizer_option.json")
    return {
        "format": FORMAT,
        **saved,
        "vocab_size": tokenizer.vocab_size,
        "end_of_document": tokenizer.end_of_document,
    }


def write_dataset(folder: pathlib.Path, about: dict[str, Any], tables: dict[str, np.ndarray]) -> None:
    """Writes the tables of documents, then the description, which marks the dataset as finished."""
    for name, table in tables.items():
        write_array(folder / f"{name}.documents.npy", table)
    write_json(folder / DESCRIPTION, about)


def split_about(shards: list[Shard]) -> dict[str, Any]:
    """The description of a split, from the descriptions of its shards."""
    listed = [dataclasses.asdict(shard) for shard in shards]
    return {key: sum(shard[key] for shard in listed) for key in COUNTS} | {"shards": listed}


def dataset_of_run(run: AnyPath) -> Dataset:
    """The dataset that a run trains on. Raises UserError when the run has none, or it is no longer where it was."""
    named: list[AnyPath] = [run / "data"]
    if (run / "data.json").is_file():
        path = read_json(run / "data.json").get("dataset")
        if not isinstance(path, str):
            raise UserError(f"{run / 'data.json'} is damaged: expected the path of a folder as 'dataset', got {path!r}")
        named.insert(0, literal_path(path))
    for folder in named:
        if is_dataset(folder):
            return open_dataset(folder)
    raise UserError(f"{run} has no dataset: looked in {' and '.join(map(str, named))}; is it a run folder?")
