"""One job of tokenizing: some units of a source become one shard of every split."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from model.options import from_json
from train.data import config, sources
from train.data.files import read_json, write_atomically
from train.data.shards import Shard, ShardWriter
from train.data.split import by_hash
from train.data.tokenizers import load_tokenizer


class Tokenizing:
    """What every job of a run shares: the folder, its tokenizer, and which documents are held out."""

    def __init__(self, folder: str, validation: Any, held: list[str] | None) -> None:
        self._folder = pathlib.Path(folder)
        self._tokenizer = load_tokenizer(folder)
        self._validation: config.Validation | None = from_json(config.Validation | None, validation)
        self._held = None if held is None else frozenset(held)

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Writes the shards of a job, then `part-NAME.json`, which says that they are finished; returns its content."""
        name = job["name"]
        writers = {
            split: ShardWriter(self._folder / f"{split}-{name}.array_record", self._tokenizer.vocab_size)
            for split in ("train", "validation")
        }
        try:
            for unit in job["units"]:
                for document in sources.read_unit(sources.Unit(**unit)):
                    for split, text in self._parts(document, job["split"]):
                        tokens = self._tokenizer.encode(text.text)
                        writers[split].write(text.name, tokens, text.num_bytes, len(text.text.split()))
            finished = {split: writer.finish() for split, writer in writers.items()}
        except BaseException:
            for writer in writers.values():
                writer.abandon()
            raise
        part: dict[str, Any] = {"name": name, "shards": {}}
        for split, result in finished.items():
            if result is not None:
                shard, table = result
                np.save(self._folder / f"part-{split}-{name}.npy", table, allow_pickle=False)
                part["shards"][split] = dataclasses.asdict(shard)
        write_atomically(part_path(self._folder, name), json.dumps(part).encode())
        return part

    def _parts(self, document: sources.Document, split: str | None) -> list[tuple[str, sources.Document]]:
        """A document under the split that it belongs to; the two parts of one that Tail cuts."""
        if split is not None:
            return [(split, document)]
        if isinstance(self._validation, config.Tail):
            cut = int(len(document.text) * (1 - self._validation.fraction))
            tail = sources.Document(f"{document.name} from character {cut}", document.text[cut:])
            parts = [("train", sources.Document(document.name, document.text[:cut])), ("validation", tail)]
            return [(name, part) for name, part in parts if part.text]
        if self._held is not None:
            return [("validation" if document.name in self._held else "train", document)]
        if isinstance(self._validation, config.WholeFiles):
            return [("validation" if by_hash(document.name, self._validation) else "train", document)]
        return [("train", document)]


def part_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The file that says that the shards of a job are finished."""
    return folder / f"part-{name}.json"


def finished_part(folder: pathlib.Path, name: str) -> dict[str, Any] | None:
    """What an earlier run says of a job, if it finished it and its shards are whole."""
    path = part_path(folder, name)
    if not path.is_file():
        return None
    part = read_json(path)
    for about in part["shards"].values():
        shard = Shard(**about)
        file = folder / shard.file
        if not file.is_file() or file.stat().st_size != shard.bytes_of_file:
            return None
    return part
