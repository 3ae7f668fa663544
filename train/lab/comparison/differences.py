"""The differences in the setting of two runs: config, code, data and environment. Reads whatever the folders have."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from model.errors import UserError
from model.options.difference import changed_fields
from model.options.field_marks import marked_fields
from train import experiment as experiments
from train.data.shards.dataset import COUNTS, Dataset, dataset_of_run
from train.earlier import current_config
from train.report.run import RunData

Section = Literal["config", "code", "data", "environment"]
UNKNOWN = "not recorded"


@dataclasses.dataclass(frozen=True)
class Change:
    """One value of two runs, as texts that differ.

    Attributes:
      section: the part of the setting.
      name: the path of a config field, or the name of the value.
      a, b: the value of each run.
      changes_results: whether it can change a number of the run; None where that is not known.
    """

    section: Section
    name: str
    a: str
    b: str
    changes_results: bool | None = None


@dataclasses.dataclass(frozen=True)
class DatasetIdentity:
    """The values that two datasets of the same tokens share.

    Attributes:
      folder: where it is.
      tokenizer: the kind of tokenizer and the fingerprint of its content.
      splits: for each split, its counts and the digest of its tokens.
    """

    folder: str
    tokenizer: str
    splits: dict[str, tuple[str, str]]

    def same_split(self, other: "DatasetIdentity", split: str) -> bool:
        """Whether both have a split with the same tokens of the same tokenizer."""
        own, others = self.splits.get(split), other.splits.get(split)
        return own is not None and own == others and self.tokenizer == other.tokenizer


def identity_of(run: pathlib.Path) -> DatasetIdentity:
    """The identity of a run's dataset. Raises UserError when the dataset is gone or damaged."""
    dataset = dataset_of_run(run)
    kind = str(dataset.description["tokenizer"]["type"])
    splits = {name: _split_identity(dataset, name) for name in dataset.description["splits"]}
    return DatasetIdentity(str(dataset.folder), f"{kind} {dataset.tokenizer.fingerprint()}", splits)


def _split_identity(dataset: Dataset, name: str) -> tuple[str, str]:
    """The counts of a split in words, and a digest of the checksums of its shards."""
    counts = ", ".join(f"{dataset.count(name, what):,} {what}" for what in COUNTS)
    sums = [shard.sha256 for split in dataset.split(name) for shard in split.shards]
    return counts, hashlib.sha256(" ".join(sums).encode()).hexdigest()[:16]


def differences(
    a: RunData, b: RunData, identities: tuple[DatasetIdentity | None, DatasetIdentity | None]
) -> list[Change]:
    """All differences, in the order of the sections.

    Args:
      a, b: the runs.
      identities: those of their datasets; None for a dataset that is gone.
    """
    return [
        *_of_config(a, b),
        *_of_code(_last_session(a), _last_session(b)),
        *_of_data(*identities),
        *_of_environment(_last_session(a), _last_session(b)),
    ]


def _of_config(a: RunData, b: RunData) -> Iterator[Change]:
    if not a.config or not b.config:
        for name, run in (("a", a), ("b", b)):
            if not run.config:
                other = {"a": UNKNOWN, "b": UNKNOWN} | {"b" if name == "a" else "a": "recorded"}
                yield Change("config", "config.json", other["a"], other["b"])
        return
    marked = [_execution_only(run) for run in (a, b)]
    for path, old, new in changed_fields(_current(a.config), _current(b.config)):
        if marked[0] is None or marked[1] is None:
            yield Change("config", path, old, new)
            continue
        under = any(path == field or path.startswith(f"{field}.") for field in marked[0] & marked[1])
        yield Change("config", path, old, new, not under)


def _current(config: dict[str, Any]) -> Any:
    """The config with today's names, where it has the form of one."""
    try:
        return current_config(config)
    except (TypeError, ValueError, AttributeError, KeyError):
        return config


def _execution_only(run: RunData) -> set[str] | None:
    """The fields that change no result; None where the config does not fit the code."""
    try:
        return set(marked_fields(experiments.load(run.folder), "execution"))
    except UserError:
        return None


def _last_session(run: RunData) -> dict[str, Any]:
    return run.sessions[-1] if run.sessions else {}


def _of_code(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    git = [_mapping(session.get("git")) for session in (a, b)]
    for name in ("revision", "branch"):
        one, other = (str(of.get(name) or of.get("why") or UNKNOWN) for of in git)
        if one != other:
            yield Change("code", name, one, other, name == "revision")
    diffs = [str(of.get("diff") or "") for of in git]
    if diffs[0] != diffs[1]:
        words = [f"{diff.count(chr(10)):,} lines of diff" if diff else "none" for diff in diffs]
        if words[0] == words[1]:
            words = [
                f"{text}, {hashlib.sha256(d.encode()).hexdigest()[:8]}" for text, d in zip(words, diffs, strict=True)
            ]
        yield Change("code", "uncommitted changes", words[0], words[1], True)


def _of_data(a: DatasetIdentity | None, b: DatasetIdentity | None) -> Iterator[Change]:
    if a is None or b is None:
        if (a is None) != (b is None):
            one, other = ("gone" if identity is None else identity.folder for identity in (a, b))
            yield Change("data", "dataset", one, other)
        return
    if a.tokenizer != b.tokenizer:
        yield Change("data", "tokenizer", a.tokenizer, b.tokenizer, True)
    for name in dict.fromkeys([*a.splits, *b.splits]):
        (counts_a, digest_a), (counts_b, digest_b) = (one.splits.get(name, ("none", "none")) for one in (a, b))
        if counts_a != counts_b:
            yield Change("data", f"{name} split", counts_a, counts_b, True)
        elif digest_a != digest_b:
            yield Change("data", f"tokens of the {name} split, digest", digest_a, digest_b, True)


def _of_environment(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    if not a or not b:
        if bool(a) != bool(b):
            said = ["recorded" if session else UNKNOWN for session in (a, b)]
            yield Change("environment", "environment.json", said[0], said[1])
        return
    one, other = (dict(_leaves(session)) for session in (a, b))
    for name in dict.fromkeys([*one, *other]):
        value, others = one.get(name, "none"), other.get(name, "none")
        if value != others:
            yield Change("environment", name, value, others, None if name.startswith("host.") else True)


def _leaves(session: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The values of a session that may decide numbers or speed, by dotted name."""
    for name in ("python", "platform"):
        yield name, str(session.get(name, UNKNOWN))
    for group in ("host", "devices", "packages", "variables"):
        for name, value in _mapping(session.get(group)).items():
            yield f"{group}.{name}", str(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
