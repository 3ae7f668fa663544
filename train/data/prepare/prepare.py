"""Turns raw text into a dataset folder: list, split, train the tokenizer, tokenize; reuses the work of earlier runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from model.errors import UserError
from model.options.json import to_json
from train.data import config
from train.data.config import Data
from train.data.prepare import settings
from train.data.prepare.progress import Reporter
from train.data.prepare.settings import Units
from train.data.prepare.tokenizing import finished_part, remove_part, table_path, training_part
from train.data.prepare.workers import run_jobs
from train.data.shards import dataset
from train.data.shards.shards import Shard
from train.data.text import sources, split
from train.data.text.units import readable
from train.data.tokenizers.interface import DESCRIPTION, Tokenizer, load_tokenizer, make_tokenizer, save_tokenizer
from train.files.files import lock
from train.files.paths import AnyPath, expand_paths, literal_path, local_path

# Shards hold a 64th of the text each, within these bounds, so that their number never depends on the machine.
SMALLEST_SHARD, LARGEST_SHARD = 4 << 20, 256 << 20
# Starting a process costs about as much as tokenizing this many bytes.
BYTES_WORTH_A_PROCESS = 2 << 20
# Called with a tokenizer and the folder that it is for.
CheckTokenizer = Callable[[Tokenizer, pathlib.Path], None]
# A tokenizer is trained on at most this many bytes, sampled evenly from all text.
TOKENIZER_TEXT = 256 << 20


def prepare(
    data: Data,
    into: AnyPath | str,
    progress: Reporter | None = None,
    workers: int | None = None,
    check: CheckTokenizer | None = None,
) -> AnyPath:
    """Returns the dataset folder of a Data option: the folder that it names, or `into`, filled from raw text.

    Work already done with the same settings on the same text is reused, finished or not. The bytes written do not
    depend on `workers` (the number of processes; by default one per core). `check` is called with the tokenizer before
    text is tokenized, and may raise. Raises UserError when the folder was made with other settings, or when the text
    cannot be read.
    """
    data = expand_paths(data, "data")
    given = data.sources()
    if len(given) == 1 and dataset.is_dataset(given[0].path):
        named = literal_path(given[0].path)
        settings.refuse_other_settings(data, named)
        return named
    folder = local_path(into, "a dataset that is made")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; name another one") from None
    with _alone_in(folder):
        progress = progress or Reporter()
        finished = dataset.is_dataset(folder)
        listed = settings.list_sources(data, finished, progress.message)
        settings.begin(folder, settings.settings_of(data, listed, finished, progress.message), finished)
        if not finished:
            _Preparation(data, folder, listed, progress, workers or cores()).run(check)
    return folder


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Preparation:
    """Fills one folder from the units of its sources; a source without units is already a dataset."""

    def __init__(
        self, data: Data, folder: pathlib.Path, listed: list[Units | None], progress: Reporter, workers: int
    ) -> None:
        self.data = data
        self.folder = folder
        self.progress = progress
        self.workers = workers
        self.paths = [literal_path(source.path) for source in data.sources()]
        self.raw = {k: units for k, units in enumerate(listed) if units is not None}
        self.held: dict[int, split.Held | None] = {}

    def run(self, check: CheckTokenizer | None) -> None:
        """Does the remaining work; writes the description last, which marks the dataset as finished."""
        self._remove_unfinished()
        for k, units in self.raw.items():
            self.held[k] = self._hold_out(self.paths[k], units)
        tokenizer = self._tokenizer()
        if check is not None:
            check(tokenizer, self.folder)
        members: list[AnyPath] = []
        for k, path in enumerate(self.paths):
            if k not in self.raw:
                members.append(path.resolve() if isinstance(path, pathlib.Path) else path)
                continue
            member = self.folder if len(self.paths) == 1 else self.folder / f"source-{k}"
            if not dataset.is_dataset(member):
                if member != self.folder:
                    save_tokenizer(tokenizer, member)
                self._tokenize(tokenizer, member, self.raw[k], self.held[k])
            members.append(member)
        if len(self.paths) > 1:
            self._write_mixture(tokenizer, members)

    def _remove_unfinished(self) -> None:
        for folder in (self.folder, *self.folder.glob("source-*")):
            for path in folder.glob(".*.part"):
                path.unlink(missing_ok=True)

    def _hold_out(self, path: AnyPath, units: Units) -> split.Held | None:
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
        if not splitter.num_documents:
            raise UserError(f"{readable(path)}: no text in it, only empty documents")
        return splitter.held()

    # ------------------------------------------------------------------------------------------------- tokenizer

    def _tokenizer(self) -> Tokenizer:
        if (self.folder / DESCRIPTION).is_file():
            return load_tokenizer(self.folder)
        ready = [path for k, path in enumerate(self.paths) if k not in self.raw]
        option = self.data.tokenizer
        if option is None and ready:
            option = config.TokenizerOf(path=str(ready[0]))
        if option is None:
            raise UserError(f"{self.paths[0]} is raw text: data.tokenizer must say how to tokenize it, got None")
        with self.progress.stage("making the tokenizer", 0):
            tokenizer = make_tokenizer(option, self._training_texts(isinstance(option, config.Characters)))
        save_tokenizer(tokenizer, self.folder)
        if (warning := tokenizer.warning()) is not None:
            self.progress.message(f"WARNING: {warning}")
        return tokenizer

    def _training_texts(self, whole: bool) -> Iterator[str]:
        """The texts to make the tokenizer from: all if `whole`, else without held-out texts and generated tables."""
        option = self.data.validation
        for k, units in self.raw.items():
            held = self.held[k]
            left_out = frozenset[str]() if held is None else held.validation | held.generated
            for unit in units if whole else sample_evenly(units, TOKENIZER_TEXT):
                for document in sources.read_unit(unit):
                    if whole:
                        yield document.text
                    elif held is None:
                        yield training_part(document, option, None)
                    elif document.name not in left_out:
                        yield document.text
        if whole and isinstance(option, config.SeparateText):
            for unit in settings.separate_units(option):
                yield from (document.text for document in sources.read_unit(unit))

    # ------------------------------------------------------------------------------------------------ tokenizing

    def _tokenize(self, tokenizer: Tokenizer, folder: pathlib.Path, units: Units, held: split.Held | None) -> None:
        option = self.data.validation
        drops = isinstance(option, config.WholeFiles) and not option.keep_generated
        # A group whose split is None is split document by document.
        apart = isinstance(option, config.SeparateText)
        groups: list[tuple[str | None, Units]] = [("train" if apart else None, group) for group in grouped(units)]
        if isinstance(option, config.SeparateText):
            groups += [("validation", group) for group in grouped(settings.separate_units(option))]
        names = [f"{k:05d}-of-{len(groups):05d}" for k in range(len(groups))]
        sizes = {n: sum(unit.bytes for unit in group) for n, (_, group) in zip(names, groups, strict=True)}
        parts = {name: part for name in names if (part := finished_part(folder, name)) is not None}
        jobs = [
            {"name": name, "split": split_name, "units": [dataclasses.asdict(unit) for unit in group]}
            for name, (split_name, group) in zip(names, groups, strict=True)
            if name not in parts
        ]
        setup = {
            "folder": str(folder),
            "validation": to_json(option),
            "held": None if held is None else sorted(held.validation),
            "dropped": sorted(held.generated) if held is not None and drops else [],
        }
        with self.progress.stage("tokenizing", sum(sizes.values())) as stage:
            stage.advance(bytes=sum(sizes[name] for name in parts), resumed=True)
            useful = 1 + sum(size for name, size in sizes.items() if name not in parts) // BYTES_WORTH_A_PROCESS
            for part in run_jobs(setup, jobs, min(self.workers, useful)):
                parts[part["name"]] = part
                documents, tokens, encoded = (
                    sum(shard[key] for shard in part["shards"].values()) for key in ("documents", "tokens", "bytes")
                )
                stage.advance(sizes[part["name"]], documents, tokens, encoded)
        self._finish(tokenizer, folder, [parts[name] for name in names])

    def _finish(self, tokenizer: Tokenizer, folder: pathlib.Path, parts: list[dict[str, Any]]) -> None:
        """Joins the descriptions of all jobs' shards into the description of the dataset."""
        about = dataset.describe(tokenizer, folder) | {"splits": {}}
        tables = {}
        for name in ("train", "validation"):
            shards, rows, first = [], [], 0
            for part in parts:
                if name in part["shards"]:
                    shard = Shard(**part["shards"][name])
                    table = np.load(table_path(folder, name, part["name"]), allow_pickle=False)
                    table["record"] += first
                    first += shard.records
                    shards.append(shard)
                    rows.append(table)
            if shards:
                counts = [part.get("not_restored", {}).get(name) for part in parts]
                about["splits"][name] = dataset.split_about(shards) | dataset.lost_about(counts)
                tables[name] = np.concatenate(rows)
        problem = self._problem(about["splits"])
        if problem is None:
            train, held_out = (about["splits"].get(name, {}).get("bytes", 0) for name in ("train", "validation"))
            if warning := split.uneven(self.data.validation, train, held_out):
                self.progress.message(warning)
            dataset.write_dataset(folder, about, tables)
        for part in parts:
            remove_part(folder, part["name"])
        if problem is not None:
            raise UserError(problem)

    def _problem(self, splits: Collection[str]) -> str | None:
        """The error of a dataset with these splits, None if they are fine."""
        if not splits:
            return f"{', '.join(map(readable, self.paths))}: no text in it, only empty documents"
        if "train" not in splits:
            return "no text is left to train on: all of it is held out; lower data.validation.fraction"
        return None

    def _write_mixture(self, tokenizer: Tokenizer, folders: list[AnyPath]) -> None:
        members = [f.name if f.parent == self.folder else str(f) for f in folders]
        weights = [source.weight for source in self.data.sources()]
        about = dataset.describe(tokenizer, self.folder) | {
            "members": members,
            "weights": weights,
            "splits": {},
        }
        opened = [dataset.open_dataset(folder) for folder in folders]
        for member in opened:
            if member.tokenizer.fingerprint() != tokenizer.fingerprint():
                raise UserError(
                    f"{member.folder} was made with another tokenizer than the rest of the mixture; prepare one of the"
                    f" two again with data.tokenizer=TokenizerOf(path=...), the path being that of the other"
                )
            for name, described in member.about["splits"].items():
                total = about["splits"].setdefault(name, dict.fromkeys(dataset.COUNTS, 0))
                for key in dataset.COUNTS:
                    total[key] += described[key]
        for name, total in about["splits"].items():
            lost = [member.lost(name) for member in opened if name in member.about["splits"]]
            total |= dataset.lost_about([None if one is None else dataclasses.asdict(one) for one in lost])
        dataset.write_dataset(self.folder, about, {})


def grouped(units: Units) -> list[Units]:
    """Cuts units, in the given order, into the groups that become shards; depends only on their sizes."""
    total = sum(unit.bytes for unit in units)
    target = min(max(SMALLEST_SHARD, total // 64), LARGEST_SHARD)
    groups: list[Units] = [[]]
    size = 0
    for unit in units:
        if groups[-1] and size + unit.bytes > target:
            groups.append([])
            size = 0
        groups[-1].append(unit)
        size += unit.bytes
    return groups


def sample_evenly(units: Units, most: int) -> Units:
    """All units, or every n-th unit, so that they hold about `most` bytes."""
    return units[:: max(1, sum(unit.bytes for unit in units) // most)]


@contextlib.contextmanager
def _alone_in(folder: pathlib.Path) -> Iterator[None]:
    """Waits until no other process prepares the same folder; the lock ends with the process that holds it."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # read-only, or on a file system without locks: then nobody waits
            stack.enter_context(lock(folder / ".lock", wait=True))
        yield
