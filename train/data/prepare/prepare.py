"""Turns raw text into a dataset folder: list, split, train the tokenizer, tokenize; reuses the work of earlier runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from model.errors import UserError
from model.options.json import to_json
from train.data import config
from train.data.config import Data
from train.data.interface import CheckTokenizer, DataOption, Engine
from train.data.prepare import ray_workers, settings
from train.data.prepare.progress import Reporter
from train.data.prepare.settings import Units
from train.data.prepare.tokenizing import finished_result, remove_result_files, table_path, training_text
from train.data.prepare.workers import run_jobs
from train.data.shards import dataset
from train.data.shards.shards import Shard
from train.data.text import sources, split
from train.data.text.units import printable
from train.data.tokenizers.interface import (
    TOKENIZER_OPTION_FILE,
    Tokenizer,
    load_tokenizer,
    make_tokenizer,
    save_tokenizer,
)
from train.files.files import lock
from train.files.paths import AnyPath, expand_paths, literal_path, local_path

# Shards hold a 64th of the text each, within these bounds, so that their number never depends on the machine.
MIN_SHARD_BYTES, MAX_SHARD_BYTES = 4 << 20, 256 << 20
# Starting a process costs about as much as tokenizing this many bytes.
BYTES_WORTH_A_PROCESS = 2 << 20
# A tokenizer is trained on at most this many bytes, sampled evenly from all text.
MAX_TOKENIZER_BYTES = 256 << 20


def prepare(
    data: DataOption,
    into: AnyPath | str,
    progress: Reporter | None = None,
    workers: int | None = None,
    check: CheckTokenizer | None = None,
    engine: Engine = "processes",
) -> AnyPath:
    """Returns the dataset folder of an option of data: the folder that it names, or `into`, filled from raw text.

    Work already done with the same settings on the same text is reused, finished or not. The bytes written do not
    depend on `workers` (the number of processes; by default one per core) or on the engine. `check` is called with the
    tokenizer before text is tokenized, and may raise. Raises UserError when the folder was made with other settings, or
    when the text cannot be read.
    """
    return data.prepare(into, progress, workers, check, engine)


def prepare_text(
    data: Data,
    into: AnyPath | str,
    progress: Reporter | None,
    workers: int | None,
    check: CheckTokenizer | None,
    engine: Engine,
) -> AnyPath:
    """See `prepare`."""
    data = expand_paths(data, "data")
    given = data.sources()
    if len(given) == 1 and dataset.is_dataset(given[0].path):
        dataset_path = literal_path(given[0].path)
        settings.refuse_other_settings(data, dataset_path)
        return dataset_path
    folder = local_path(into, "a dataset that is made")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; name another one") from None
    with folder_lock(folder):
        progress = progress or Reporter()
        finished = dataset.is_dataset(folder)
        listed = settings.list_source_units(data, finished, progress.message)
        settings.write_or_check(folder, settings.settings_of(data, listed, finished, progress.message), finished)
        if not finished:
            _Preparation(data, folder, listed, progress, workers, engine).run(check)
    return folder


def num_cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Preparation:
    """Fills one folder from the units of its sources; a source without units is already a dataset."""

    def __init__(
        self,
        data: Data,
        folder: pathlib.Path,
        listed: list[Units | None],
        progress: Reporter,
        workers: int | None,
        engine: Engine,
    ) -> None:
        self.data = data
        self.folder = folder
        self.progress = progress
        self.workers = workers
        self.engine = engine
        self.paths = [literal_path(source.path) for source in data.sources()]
        self.raw_units = {k: units for k, units in enumerate(listed) if units is not None}
        self.held_out: dict[int, split.ChosenDocuments | None] = {}

    def run(self, check: CheckTokenizer | None) -> None:
        """Does the remaining work; writes the description last, which marks the dataset as finished."""
        self._remove_unfinished()
        for k, units in self.raw_units.items():
            self.held_out[k] = self._hold_out(self.paths[k], units)
        tokenizer = self._tokenizer()
        if check is not None:
            check(tokenizer, self.folder)
        members: list[AnyPath] = []
        for k, path in enumerate(self.paths):
            if k not in self.raw_units:
                members.append(path.resolve() if isinstance(path, pathlib.Path) else path)
                continue
            member = self.folder if len(self.paths) == 1 else self.folder / f"source-{k}"
            if not dataset.is_dataset(member):
                if member != self.folder:
                    save_tokenizer(tokenizer, member)
                self._tokenize(tokenizer, member, self.raw_units[k], self.held_out[k])
            members.append(member)
        if len(self.paths) > 1:
            self._write_mixture(tokenizer, members)

    def _remove_unfinished(self) -> None:
        for folder in (self.folder, *self.folder.glob("source-*")):
            for path in folder.glob(".*.part"):
                path.unlink(missing_ok=True)

    def _hold_out(self, path: AnyPath, units: Units) -> split.ChosenDocuments | None:
        option = self.data.validation
        if not isinstance(option, config.HeldOutDocuments) or option.similarity is None:
            return None
        total = sum(unit.bytes for unit in units)
        splitter = split.Splitter(option, total)
        with self.progress.stage("choosing the validation documents", total) as stage:
            for unit in units:
                for document in sources.read_unit(unit):
                    splitter.add(document)
                stage.advance(bytes=unit.bytes)
        if not splitter.num_documents:
            raise UserError(f"{printable(path)}: no text in it, only empty documents")
        return splitter.choose()

    # ------------------------------------------------------------------------------------------------- tokenizer

    def _tokenizer(self) -> Tokenizer:
        if (self.folder / TOKENIZER_OPTION_FILE).is_file():
            return load_tokenizer(self.folder)
        dataset_paths = [path for k, path in enumerate(self.paths) if k not in self.raw_units]
        option = self.data.tokenizer
        if option is None and dataset_paths:
            option = config.TokenizerOf(path=str(dataset_paths[0]))
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
        for k, units in self.raw_units.items():
            held_out = self.held_out[k]
            left_out = frozenset[str]() if held_out is None else held_out.validation | held_out.generated
            for unit in units if whole else sample_evenly(units, MAX_TOKENIZER_BYTES):
                for document in sources.read_unit(unit):
                    if whole:
                        yield document.text
                    elif held_out is None:
                        yield training_text(document, option, None)
                    elif document.name not in left_out:
                        yield document.text
        if whole and isinstance(option, config.SeparateText):
            for unit in settings.validation_units(option):
                yield from (document.text for document in sources.read_unit(unit))

    # ------------------------------------------------------------------------------------------------ tokenizing

    def _tokenize(
        self, tokenizer: Tokenizer, folder: pathlib.Path, units: Units, held_out: split.ChosenDocuments | None
    ) -> None:
        option = self.data.validation
        drops_generated = isinstance(option, config.HeldOutDocuments) and not option.keep_generated
        # A group whose split is None is split document by document.
        separate = isinstance(option, config.SeparateText)
        groups: list[tuple[str | None, Units]] = [
            ("train" if separate else None, group) for group in group_units(units)
        ]
        if isinstance(option, config.SeparateText):
            groups += [("validation", group) for group in group_units(settings.validation_units(option))]
        names = [f"{k:05d}-of-{len(groups):05d}" for k in range(len(groups))]
        sizes = {n: sum(unit.bytes for unit in group) for n, (_, group) in zip(names, groups, strict=True)}
        results = {name: result for name in names if (result := finished_result(folder, name)) is not None}
        jobs = [
            {"name": name, "split": split_name, "units": [dataclasses.asdict(unit) for unit in group]}
            for name, (split_name, group) in zip(names, groups, strict=True)
            if name not in results
        ]
        setup = {
            "folder": str(folder),
            "validation": to_json(option),
            "held_out": None if held_out is None else sorted(held_out.validation),
            "dropped": sorted(held_out.generated) if held_out is not None and drops_generated else [],
        }
        with self.progress.stage("tokenizing", sum(sizes.values())) as stage:
            stage.advance(bytes=sum(sizes[name] for name in results), resumed=True)
            for result in self._run_jobs(setup, jobs, sum(size for name, size in sizes.items() if name not in results)):
                results[result["name"]] = result
                documents, tokens, encoded = (
                    sum(shard[key] for shard in result["shards"].values()) for key in ("documents", "tokens", "bytes")
                )
                stage.advance(sizes[result["name"]], documents, tokens, encoded)
        self._finish(tokenizer, folder, [results[name] for name in names])

    def _run_jobs(self, setup: dict[str, Any], jobs: list[dict[str, Any]], num_bytes: int) -> Iterator[dict[str, Any]]:
        if self.engine == "ray":
            return ray_workers.run_jobs(setup, jobs, self.workers)
        return run_jobs(setup, jobs, min(self.workers or num_cores(), 1 + num_bytes // BYTES_WORTH_A_PROCESS))

    def _finish(self, tokenizer: Tokenizer, folder: pathlib.Path, results: list[dict[str, Any]]) -> None:
        """Joins the descriptions of all jobs' shards into the description of the dataset."""
        description = dataset.describe(tokenizer, folder) | {"splits": {}}
        tables = {}
        for name in ("train", "validation"):
            shards, rows, first = [], [], 0
            for result in results:
                if name in result["shards"]:
                    shard = Shard(**result["shards"][name])
                    table = np.load(table_path(folder, name, result["name"]), allow_pickle=False)
                    table["record"] += first
                    first += shard.records
                    shards.append(shard)
                    rows.append(table)
            if shards:
                counts = [result.get("not_restored", {}).get(name) for result in results]
                description["splits"][name] = dataset.describe_split(shards) | dataset.unrestored_entry(counts)
                tables[name] = np.concatenate(rows)
        error_message = self._splits_error(description["splits"])
        if error_message is None:
            sizes = [description["splits"].get(name, {}).get("bytes", 0) for name in ("train", "validation")]
            if warning := split.uneven_warning(self.data.validation, *sizes):
                self.progress.message(warning)
            dataset.write_dataset(folder, description, tables)
        for result in results:
            remove_result_files(folder, result["name"])
        if error_message is not None:
            raise UserError(error_message)

    def _splits_error(self, splits: Collection[str]) -> str | None:
        """The error of a dataset with these splits, None if they are fine."""
        if not splits:
            return f"{', '.join(map(printable, self.paths))}: no text in it, only empty documents"
        if "train" not in splits:
            return "no text is left to train on: all of it is held out; lower data.validation.fraction"
        return None

    def _write_mixture(self, tokenizer: Tokenizer, folders: list[AnyPath]) -> None:
        members = [f.name if f.parent == self.folder else str(f) for f in folders]
        weights = [source.weight for source in self.data.sources()]
        description = dataset.describe(tokenizer, self.folder) | {
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
            for name, described in member.description["splits"].items():
                total = description["splits"].setdefault(name, dict.fromkeys(dataset.COUNTS, 0))
                for key in dataset.COUNTS:
                    total[key] += described[key]
        for name, total in description["splits"].items():
            unrestored = [member.unrestored(name) for member in opened if name in member.description["splits"]]
            total |= dataset.unrestored_entry([None if one is None else dataclasses.asdict(one) for one in unrestored])
        dataset.write_dataset(self.folder, description, {})


def group_units(units: Units) -> list[Units]:
    """Cuts units, in the given order, into the groups that become shards; depends only on their sizes."""
    total = sum(unit.bytes for unit in units)
    target = min(max(MIN_SHARD_BYTES, total // 64), MAX_SHARD_BYTES)
    groups: list[Units] = [[]]
    size = 0
    for unit in units:
        if groups[-1] and size + unit.bytes > target:
            groups.append([])
            size = 0
        groups[-1].append(unit)
        size += unit.bytes
    return groups


def sample_evenly(units: Units, num_bytes: int) -> Units:
    """All units, or every n-th unit, so that they hold about `num_bytes` bytes."""
    return units[:: max(1, sum(unit.bytes for unit in units) // num_bytes)]


@contextlib.contextmanager
def folder_lock(folder: pathlib.Path) -> Iterator[None]:
    """Waits until no other process prepares the same folder; the lock ends with the process that holds it."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # read-only, or on a file system without locks: then nobody waits
            stack.enter_context(lock(folder / ".lock", wait=True))
        yield
