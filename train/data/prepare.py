"""From raw text to a dataset folder: list, split, train the tokenizer, tokenize; a second run goes on where one ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from model.errors import UserError
from model.options import differences, to_json
from train.data import config, dataset, sources, split
from train.data.config import Data, Source
from train.data.files import read_json, write_atomically
from train.data.progress import Progress
from train.data.shards import Shard
from train.data.tokenizers import DESCRIPTION, Tokenizer, load_tokenizer, make_tokenizer, save_tokenizer
from train.data.tokenizing import finished_part, part_path
from train.data.workers import as_json, run_jobs

SETTINGS = "settings.json"
# Shards hold a 64th of the text each, within these bounds, so that their number never depends on the machine.
SMALLEST_SHARD, LARGEST_SHARD = 4 << 20, 256 << 20
# Starting a process costs about as much as tokenizing so much text.
BYTES_WORTH_A_PROCESS = 2 << 20


def prepare(
    data: Data, into: pathlib.Path | str, progress: Progress | None = None, workers: int | None = None
) -> pathlib.Path:
    """The dataset folder of a Data option: the one that it names, or `into`, filled now from raw text.

    What is there already and was made with the same settings from the same text is used as it is, finished or not.
    Raises UserError when it was made with others, or when the text cannot be read.
    """
    given = data.sources()
    if len(given) == 1 and dataset.is_dataset(given[0].path):
        folder = pathlib.Path(given[0].path).expanduser()
        _check_settings_of_dataset(data, folder)
        return folder
    folder = pathlib.Path(into)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        _Preparation(data, folder, progress or Progress(), workers).run()
    return folder


class _Preparation:
    """One call of `prepare` on raw text, or on a mixture of sources."""

    def __init__(self, data: Data, folder: pathlib.Path, progress: Progress, workers: int | None) -> None:
        self.data = data
        self.folder = folder
        self.progress = progress
        self.workers = workers or max(
            1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        self.sources = data.sources()
        self.held: dict[int, split.Held | None] = {}

    def run(self) -> None:
        settings, units = self._settings()
        if self._is_same(settings, units) and dataset.is_dataset(self.folder):
            return
        write_atomically(self.folder / SETTINGS, json.dumps(settings, indent=1).encode())
        raw = {k: u for k, u in enumerate(units) if u is not None}
        for k, listed in raw.items():
            self.held[k] = self._hold_out(listed)
        tokenizer = self._tokenizer(raw)
        members = []
        for k, source in enumerate(self.sources):
            if k not in raw:
                members.append(str(pathlib.Path(source.path).expanduser().resolve()))
                continue
            member = self.folder if len(self.sources) == 1 else self.folder / f"source-{k}"
            member.mkdir(exist_ok=True)
            if member != self.folder:
                save_tokenizer(tokenizer, member)
            self._tokenize(tokenizer, member, raw[k], self.held[k])
            members.append(member.name)
        if len(self.sources) > 1:
            self._write_mixture(tokenizer, members)

    # ------------------------------------------------------------------------------------------------- settings

    def _settings(self) -> tuple[dict[str, Any], list[list[sources.Unit] | None]]:
        """What decides the bytes of the dataset, and the units of every source of raw text that can still be read."""
        finished = dataset.is_dataset(self.folder)
        listed: list[list[sources.Unit] | None] = []
        described = []
        for source in self.sources:
            about: dict[str, Any] = {"path": source.path, "field": source.field}
            units = None
            if not dataset.is_dataset(source.path):
                try:
                    units = self._units(source)
                    about["fingerprint"] = sources.fingerprint(units)
                except UserError:
                    # A finished dataset needs its text no more.
                    if not finished:
                        raise
            listed.append(units)
            described.append(about)
        settings = {
            "format": dataset.FORMAT,
            "tokenizer": to_json(self.data.tokenizer),
            "validation": to_json(self.data.validation),
            "sources": described,
        }
        return settings, listed

    def _units(self, source: Source) -> list[sources.Unit]:
        units = sources.list_units(source)
        if isinstance(self.data.validation, config.Tail) and any(u.format != "text" for u in units):
            raise UserError(
                f"data.validation=Tail() cuts text files, but {source.path} is a table of documents; use WholeFiles()"
            )
        return units

    def _is_same(self, settings: dict[str, Any], units: list[list[sources.Unit] | None]) -> bool:
        """Whether the folder was begun with these settings; raises UserError when it was begun with others."""
        path = self.folder / SETTINGS
        if not path.is_file():
            others = [p.name for p in self.folder.iterdir() if not p.name.startswith(".")]
            if others:
                raise UserError(
                    f"{self.folder} holds other files ({', '.join(sorted(others)[:3])}); expected an empty folder"
                )
            return False
        before = read_json(path)
        for old, new in zip(before.get("sources", []), settings["sources"], strict=False):
            if "fingerprint" in old:
                new.setdefault("fingerprint", old["fingerprint"])
        lines = differences(before, settings)
        if lines:
            raise UserError(
                "\n  ".join(
                    [
                        f"{self.folder} was made with other settings or from other text:",
                        *lines,
                        f"delete it to prepare it again, name another folder, or give data.path={self.folder} to use it as it is",
                    ]
                )
            )
        return True

    # ------------------------------------------------------------------------------------------ splits, tokenizer

    def _hold_out(self, units: list[sources.Unit]) -> split.Held | None:
        option = self.data.validation
        if not isinstance(option, config.WholeFiles) or option.similarity is None:
            return None
        total = sum(unit.bytes for unit in units)
        splitter = split.Splitter(option, total)
        with self.progress.stage("choosing the validation documents", total) as stage:
            for unit in units:
                for document in sources.read_unit(unit):
                    splitter.add(document)
                stage.advance(bytes=unit.bytes)
        return splitter.held()

    def _tokenizer(self, raw: dict[int, list[sources.Unit]]) -> Tokenizer:
        if not raw:
            tokenizer = load_tokenizer(pathlib.Path(self.sources[0].path).expanduser())
            save_tokenizer(tokenizer, self.folder)
            return tokenizer
        if (self.folder / DESCRIPTION).is_file():
            return load_tokenizer(self.folder)
        if self.data.tokenizer is None:
            raise UserError(
                f"{self.sources[next(iter(raw))].path} is raw text: data.tokenizer says how to tokenize it, got None"
            )
        with self.progress.stage("making the tokenizer", 0):
            tokenizer = make_tokenizer(self.data.tokenizer, self._training_texts(raw))
        save_tokenizer(tokenizer, self.folder)
        return tokenizer

    def _training_texts(self, raw: dict[int, list[sources.Unit]]) -> Iterator[str]:
        """Texts to make the tokenizer from: all of them for characters, what is not held out for learnt pieces."""
        everything = isinstance(self.data.tokenizer, config.Characters)
        option = self.data.validation
        for k, units in raw.items():
            held = self.held[k]
            for unit in sample_evenly(units):
                for document in sources.read_unit(unit):
                    text = document.text
                    if not everything:
                        if held is not None and (
                            document.name in held.validation or document.name in held.generated
                        ):
                            continue
                        if (
                            held is None
                            and isinstance(option, config.WholeFiles)
                            and split.by_hash(document.name, option)
                        ):
                            continue
                        if isinstance(option, config.Tail):
                            text = text[: int(len(text) * (1 - option.fraction))]
                    yield text
        if everything and isinstance(option, config.SeparateText):
            for unit in sources.list_units(Source(path=option.path, field=option.field)):
                yield from (document.text for document in sources.read_unit(unit))

    # ------------------------------------------------------------------------------------------------ tokenizing

    def _tokenize(
        self, tokenizer: Tokenizer, folder: pathlib.Path, units: list[sources.Unit], held: split.Held | None
    ) -> None:
        option = self.data.validation
        groups: list[tuple[str | None, list[sources.Unit]]] = [(None, group) for group in grouped(units)]
        if isinstance(option, config.SeparateText):
            apart = sources.list_units(Source(path=option.path, field=option.field))
            groups = [("train", group) for _, group in groups] + [
                ("validation", group) for group in grouped(apart)
            ]
        jobs = [
            {
                "name": f"{k:05d}-of-{len(groups):05d}",
                "split": name,
                "units": [as_json(unit) for unit in group],
            }
            for k, (name, group) in enumerate(groups)
        ]
        sizes = {
            job["name"]: sum(unit.bytes for unit in group)
            for job, (_, group) in zip(jobs, groups, strict=True)
        }
        setup = {
            "folder": str(folder),
            "validation": to_json(option),
            "held": None if held is None else sorted(held.validation),
        }
        parts = {
            job["name"]: part for job in jobs if (part := finished_part(folder, job["name"])) is not None
        }
        left = [job for job in jobs if job["name"] not in parts]
        with self.progress.stage("tokenizing", sum(sizes.values())) as stage:
            stage.advance(bytes=sum(sizes[name] for name in parts), resumed=True)
            useful = 1 + sum(sizes[job["name"]] for job in left) // BYTES_WORTH_A_PROCESS
            for part in run_jobs(setup, left, min(self.workers, useful)):
                parts[part["name"]] = part
                done = part["shards"].values()
                stage.advance(
                    bytes=sizes[part["name"]],
                    documents=sum(s["documents"] for s in done),
                    tokens=sum(s["tokens"] for s in done),
                )
        self._finish(tokenizer, folder, [parts[job["name"]] for job in jobs])

    def _finish(self, tokenizer: Tokenizer, folder: pathlib.Path, parts: list[dict[str, Any]]) -> None:
        """Joins what the jobs say of their shards into the description of the dataset."""
        about = dataset.describe(tokenizer, folder) | {"splits": {}}
        tables = {}
        for name in ("train", "validation"):
            shards, rows, first = [], [], 0
            for part in parts:
                if name in part["shards"]:
                    shard = Shard(**part["shards"][name])
                    table = np.load(folder / f"part-{name}-{part['name']}.npy", allow_pickle=False)
                    table["record"] += first
                    first += shard.records
                    shards.append(shard)
                    rows.append(table)
            if shards:
                about["splits"][name] = dataset.split_about(shards)
                tables[name] = np.concatenate(rows)
        if "train" not in about["splits"]:
            raise UserError(
                "no text is left to train on: all of it is held out; lower data.validation.fraction"
            )
        dataset.write_dataset(folder, about, tables)
        for part in parts:
            part_path(folder, part["name"]).unlink(missing_ok=True)
            for name in ("train", "validation"):
                (folder / f"part-{name}-{part['name']}.npy").unlink(missing_ok=True)

    def _write_mixture(self, tokenizer: Tokenizer, members: list[str]) -> None:
        about = dataset.describe(tokenizer, self.folder) | {"members": members, "splits": {}}
        for member in (dataset.open_dataset(self.folder / name) for name in members):
            if member.tokenizer.fingerprint() != tokenizer.fingerprint():
                raise UserError(
                    f"{member.folder} was made with another tokenizer than the rest of the mixture; prepare it with the same"
                )
            for name, described in member.about["splits"].items():
                total = about["splits"].setdefault(name, dict.fromkeys(dataset.COUNTS, 0))
                for key in dataset.COUNTS:
                    total[key] += described[key]
        dataset.write_dataset(self.folder, about, {})


def grouped(units: list[sources.Unit]) -> list[list[sources.Unit]]:
    """Units in the order given, cut into the groups that become shards; depends on nothing but their sizes."""
    total = sum(unit.bytes for unit in units)
    target = min(max(SMALLEST_SHARD, total // 64), LARGEST_SHARD)
    groups: list[list[sources.Unit]] = [[]]
    size = 0
    for unit in units:
        if groups[-1] and size + unit.bytes > target:
            groups.append([])
            size = 0
        groups[-1].append(unit)
        size += unit.bytes
    return groups


def sample_evenly(units: list[sources.Unit], most: int = 256 << 20) -> list[sources.Unit]:
    """All units, or so many of them, spread evenly, that they hold about `most` bytes."""
    total = sum(unit.bytes for unit in units)
    every = max(1, total // most)
    return units[::every]


@contextlib.contextmanager
def _alone_in(folder: pathlib.Path) -> Iterator[None]:
    """Waits until no other process prepares the same folder; the lock goes with the process that holds it."""
    with open(folder / ".lock", "w") as file:
        with contextlib.suppress(OSError):  # some file systems have no locks: then nobody waits
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_settings_of_dataset(data: Data, folder: pathlib.Path) -> None:
    """Refuses settings that a finished dataset cannot follow, so that none is silently without effect."""
    made = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    for name in ("tokenizer", "validation"):
        asked, was = to_json(getattr(data, name)), made.get(name)
        if asked is not None and asked != was:
            raise UserError(
                "\n  ".join(
                    [
                        f"{folder} is prepared already, with another {name} than data.{name}:",
                        *differences(was, asked, f"data.{name}"),
                        f"say data.{name}=None to take the folder's own",
                    ]
                )
            )
