"""One job of tokenizing: some units of a source become one shard of every split."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from model.errors import UserError
from model.options.json import from_json
from train.data import config
from train.data.shards.shards import SHARD_SCHEMA, Shard, ShardWriter
from train.data.text import sources
from train.data.text.sources import Document
from train.data.text.split import held_out_by_hash
from train.data.tokenizers.interface import load_tokenizer
from train.data.tokenizers.unrestored import UnrestoredText, unrestored_text
from train.files.files import read_json, write_array, write_json

SPLITS = ("train", "validation")


def split_document(
    document: Document, option: config.Validation | None, held_out: frozenset[str] | None
) -> list[tuple[str, Document]]:
    """The (split, part) pairs of a document: the whole document, or the two parts that Tail makes of it; none is empty.

    `held_out` names the held-out documents where they were chosen by comparing all documents, else it is None.
    """
    if isinstance(option, config.Tail):
        cut = int(len(document.text) * (1 - option.fraction))
        tail = Document(f"{document.name} from character {cut}", document.text[cut:])
        parts = [("train", Document(document.name, document.text[:cut])), ("validation", tail)]
        return [(name, part) for name, part in parts if part.text]
    is_held_out = document.name in held_out if held_out is not None else False
    if held_out is None and isinstance(option, config.HeldOutDocuments):
        is_held_out = held_out_by_hash(document.name, option)
    return [("validation" if is_held_out else "train", document)]


def training_text(document: Document, option: config.Validation | None, held_out: frozenset[str] | None) -> str:
    """The part of a document's text that is trained on, possibly empty."""
    return "".join(part.text for name, part in split_document(document, option, held_out) if name == "train")


class JobRunner:
    """Runs jobs that share a folder, its tokenizer, and the choice of documents to hold out or drop."""

    def __init__(self, folder: str, validation: Any, held_out: list[str] | None, dropped: list[str]) -> None:
        self._folder = pathlib.Path(folder)
        self._tokenizer = load_tokenizer(folder)
        self._validation: config.Validation | None = from_json(config.Validation | None, validation)
        self._held_out = None if held_out is None else frozenset(held_out)
        self._dropped = frozenset(dropped)

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Writes the shards of a job, then `part-NAME.json`, which says that they are finished; returns its content.

        Raises UserError for text that cannot be read or encoded, and when the disk is full.
        """
        writers = {
            name: ShardWriter(self._folder / f"{name}-{job['name']}.array_record", self._tokenizer.vocab_size)
            for name in SPLITS
        }
        unrestored = dict.fromkeys(SPLITS, UnrestoredText())
        try:
            for unit in job["units"]:
                for document in sources.read_unit(sources.Unit(**unit)):
                    self._write(document, job["split"], writers, unrestored)
            finished = {name: writer.finish() for name, writer in writers.items()}
        except BaseException:
            for writer in writers.values():
                writer.abandon()
            raise
        counts = {name: dataclasses.asdict(unrestored[name]) for name in SPLITS}
        result: dict[str, Any] = {"name": job["name"], "shards": {}, "not_restored": counts}
        for name, shard_and_table in finished.items():
            if shard_and_table is not None:
                shard, table = shard_and_table
                write_array(table_path(self._folder, name, job["name"]), table)
                result["shards"][name] = dataclasses.asdict(shard)
        write_json(result_path(self._folder, job["name"]), result)
        return result

    def _write(
        self,
        document: Document,
        split: str | None,
        writers: dict[str, ShardWriter],
        unrestored: dict[str, UnrestoredText],
    ) -> None:
        if document.name in self._dropped:
            return
        parts = [(split, document)] if split else split_document(document, self._validation, self._held_out)
        for name, part in parts:
            try:
                tokens = self._tokenizer.encode(part.text)
            except UserError as error:
                raise UserError(f"{part.name}: {error}") from None
            unrestored[name] += unrestored_text(self._tokenizer, part.text, tokens)
            writers[name].write(part.name, tokens, part.num_bytes, len(part.text.split()))


def result_path(folder: pathlib.Path, job: str) -> pathlib.Path:
    """The file that says that the shards of a job are finished."""
    return folder / f"part-{job}.json"


def table_path(folder: pathlib.Path, split: str, job: str) -> pathlib.Path:
    """The document table of a finished shard, kept until all tables are joined."""
    return folder / f"part-{split}-{job}.npy"


def finished_result(folder: pathlib.Path, job: str) -> dict[str, Any] | None:
    """The description of a job that an earlier run finished, None if it did not or a shard is incomplete."""
    path = result_path(folder, job)
    if not path.is_file():
        return None
    result = read_json(path, schema={"name": str, "shards": {...: SHARD_SCHEMA}})
    for description in result["shards"].values():
        shard = Shard(**description)
        file = folder / shard.file
        if not file.is_file() or file.stat().st_size != shard.bytes_of_file:
            return None
    return result


def remove_result_files(folder: pathlib.Path, job: str) -> None:
    """Removes the files of a finished job, once the dataset is finished."""
    result_path(folder, job).unlink(missing_ok=True)
    for split in SPLITS:
        table_path(folder, split, job).unlink(missing_ok=True)
