"""Chooses the documents to hold out: whole documents by a seeded hash, near-duplicates together, no tables."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import zlib
from collections.abc import Iterable

import numpy as np

from model.errors import UserError
from train.data.config import HeldOutDocuments, Tail, Validation
from train.data.text.compression import compression_of
from train.data.text.sources import Document
from train.terminal.formatting import format_percent

# A line shorter than this (stripped) occurs in too many files to show that two of them are alike.
MIN_LINE_LENGTH = 16
# A line in more documents than this is boilerplate, such as a license; it does not make pairs of documents.
MAX_DOCUMENTS_PER_LINE = 200
# Of more lines than this only a share is compared, the same share in every document.
MAX_LINES_COMPARED = 4_000_000
# A group of documents with more than this share of the bytes to hold out would be most of the validation text.
MAX_GROUP_SHARE = 0.5

_GENERATED = re.compile(
    r"generated (from|by|with|using)|auto-?generated|automatically generated|do not edit", re.IGNORECASE
)
_DATA_LINE = re.compile(r"""[\[({]*[-+]?(0x[0-9a-f]|\d|u?r?b?['"])""", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class ChosenDocuments:
    """The names of the documents held out, and of the generated tables, from which the tokenizer is not trained."""

    validation: frozenset[str]
    generated: frozenset[str]


def uneven_warning(option: Validation | None, train_bytes: int, validation_bytes: int) -> str | None:
    """A warning where the share held out is less than half, or more than twice, the fraction asked for; else None."""
    if not isinstance(option, HeldOutDocuments | Tail) or not train_bytes + validation_bytes:
        return None
    share = validation_bytes / (train_bytes + validation_bytes)
    if option.fraction / 2 <= share <= 2 * option.fraction:
        return None
    requested = f"data.validation={type(option).__name__}(fraction={option.fraction:g})"
    if isinstance(option, HeldOutDocuments):
        whole, other = "a document is held out whole or not at all", "Tail(fraction=...)"
    else:
        whole, other = "a text is cut once", "longer texts"
    return (
        f"WARNING: {format_percent(share)} of the text is held out for validation ({validation_bytes:,} of "
        f"{train_bytes + validation_bytes:,} bytes), where {requested} asks for {format_percent(option.fraction)}: "
        f"{whole}, and they do not add up to that share; more documents, {other} or SeparateText(path=...) give "
        "an even split"
    )


def held_out_by_hash(name: str, option: HeldOutDocuments) -> bool:
    """Whether a document is held out without comparing it to the others: its hash is below the fraction."""
    return _hash_rank(name, option.seed) < option.fraction


def _hash_rank(name: str, seed: int) -> float:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "big") / 2**64


def is_generated(name: str, text: str) -> bool:
    """Whether a document is a generated table: it says so at its head, or most of its lines are bare literals."""
    is_code = compression_of(name)[0].rpartition(".")[2].lower() in (
        "py",
        "c",
        "h",
        "cpp",
        "js",
        "ts",
        "go",
        "rs",
        "java",
        "json",
        "csv",
        "tsv",
    )
    if not is_code:
        return False
    if _GENERATED.search(text[:600]):
        return True
    lines = [line for line in (raw.strip() for raw in text.splitlines()) if line]
    return len(lines) >= 40 and sum(bool(_DATA_LINE.match(line)) for line in lines) > 0.5 * len(lines)


class Splitter:
    """Takes every document once, in the order of the source; then chooses the documents to hold out."""

    def __init__(self, option: HeldOutDocuments, total_bytes: int) -> None:
        self._option = option
        self._names: list[str] = []
        self._bytes: list[int] = []
        self._lines: list[np.ndarray] = []
        self._generated: list[bool] = []
        # Assumes about 40 bytes per line.
        self._line_interval = max(1, -(-total_bytes // 40 // MAX_LINES_COMPARED))

    @property
    def num_documents(self) -> int:
        """The number of documents taken so far."""
        return len(self._names)

    def add(self, document: Document) -> None:
        """Takes one document."""
        self._names.append(document.name)
        self._bytes.append(document.num_bytes)
        self._generated.append(is_generated(document.name, document.text))
        if self._option.similarity is not None:
            self._lines.append(_line_hashes(document.text, self._line_interval))

    def choose(self) -> ChosenDocuments:
        """Chooses the documents to hold out: groups in the order of their hash, as many as fit into the fraction."""
        groups = self._groups()
        budget = self._option.fraction * sum(self._bytes)
        chosen: list[int] = []
        size = 0
        for members in sorted(groups, key=self._group_rank):
            bytes_of_group = sum(self._bytes[i] for i in members)
            has_table = any(self._generated[i] for i in members)
            if has_table or bytes_of_group > min(MAX_GROUP_SHARE * budget, budget - size):
                continue
            chosen += members
            size += bytes_of_group
        if not chosen:
            chosen = self._smallest_group(groups)
        generated = frozenset(n for n, g in zip(self._names, self._generated, strict=True) if g)
        return ChosenDocuments(frozenset(self._names[i] for i in chosen), generated)

    def _group_rank(self, members: list[int]) -> float:
        return min(_hash_rank(self._names[i], self._option.seed) for i in members)

    def _smallest_group(self, groups: list[list[int]]) -> list[int]:
        eligible = [g for g in groups if not any(self._generated[i] for i in g)] or groups
        if len(groups) < 2:
            raise UserError(
                f"data.validation: whole documents cannot be held out: the documents, {len(self._names)} in number, "
                "are one text, copies of one, or share most of their passages; hold out the end of each with "
                "'data.validation=Tail(fraction=0.1)', or name another text with "
                "'data.validation=SeparateText(path=...)'"
            )
        return min(eligible, key=lambda members: (sum(self._bytes[i] for i in members), self._group_rank(members)))

    def _groups(self) -> list[list[int]]:
        """Groups of documents that must go to the same split, as lists of their numbers."""
        parent = list(range(len(self._names)))

        def find(i: int) -> int:
            while parent[i] != i:
                parent[i] = parent[parent[i]]
                i = parent[i]
            return i

        if self._option.similarity is not None:
            for a, b in near_duplicates(self._lines, self._option.similarity):
                parent[find(a)] = find(b)
        groups: dict[int, list[int]] = {}
        for i in range(len(parent)):
            groups.setdefault(find(i), []).append(i)
        return list(groups.values())


def _line_hashes(text: str, interval: int) -> np.ndarray:
    """The distinct hashes of a document's long lines, uint32, sorted; one in `interval` of them."""
    stripped = {line.strip() for line in text.splitlines()}
    hashes = np.array([zlib.crc32(line.encode()) for line in stripped if len(line) >= MIN_LINE_LENGTH], np.uint32)
    return np.unique(hashes[hashes % interval == 0])


def near_duplicates(lines: list[np.ndarray], similarity: float) -> Iterable[tuple[int, int]]:
    """Pairs of documents whose shared lines are at least `similarity` of the lines of the smaller document.

    `lines[i]` are the distinct line hashes of document i. Documents with fewer than four lines are too short to
    compare.
    """
    counts = np.array([len(x) for x in lines], np.int64)
    if not counts.sum():
        return []
    owners = np.repeat(np.arange(len(lines), dtype=np.int64), counts)
    hashes = np.concatenate(lines)
    by_line = np.argsort(hashes, kind="stable")
    owners = owners[by_line]
    edges = np.flatnonzero(np.diff(hashes[by_line])) + 1
    starts, stops = np.append(0, edges), np.append(edges, len(owners))
    sharers = stops - starts
    pairs = []
    for size in np.unique(sharers[(sharers > 1) & (sharers <= MAX_DOCUMENTS_PER_LINE)]):
        # All lines that occur in exactly `size` documents: their owners as rows, every pair of columns.
        rows = owners[starts[sharers == size][:, None] + np.arange(size)]
        left, right = np.triu_indices(int(size), 1)
        pairs.append((rows[:, left] * len(lines) + rows[:, right]).ravel())
    if not pairs:
        return []
    keys, shared = np.unique(np.concatenate(pairs), return_counts=True)
    a, b = np.divmod(keys, len(lines))
    smaller = np.minimum(counts[a], counts[b])
    similar = (shared >= similarity * smaller) & (smaller >= 4)
    return list(zip(a[similar].tolist(), b[similar].tolist(), strict=True))
