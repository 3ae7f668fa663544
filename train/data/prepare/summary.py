"""Answers to questions about data, as text: the contents of a dataset, its damage, the documents in a step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from model.errors import UserError
from train.data.batches.pipeline import Batches
from train.data.shards.dataset import COUNTS, open_dataset
from train.data.shards.shards import HOW_TO_FIX
from train.files.paths import AnyPath
from train.terminal.formatting import escape_unprintable, format_counted


def summary(folder: AnyPath) -> str:
    """The tokenizer and the splits of a dataset as a small table."""
    dataset = open_dataset(folder)
    description = dataset.description
    end = "none" if dataset.end_of_document is None else str(dataset.end_of_document)
    lines = [
        escape_unprintable(folder),
        f"tokenizer: {description['tokenizer']['type']}, {dataset.vocab_size:,} ids, end of document: {end}",
    ]
    rows = [["split", *COUNTS, "bytes/token", "shards"]]
    for name in description["splits"]:
        counts = [dataset.count(name, what) for what in COUNTS]
        shards = sum(len(split.shards) for split in dataset.split(name))
        ratio = dataset.count(name, "bytes") / max(1, dataset.count(name, "tokens"))
        rows.append([name, *(f"{n:,}" for n in counts), f"{ratio:.3f}", f"{shards:,}"])
    widths = [max(16, *(len(row[k]) + 2 for row in rows)) for k in range(1, len(rows[0]))]
    lines += [
        f"{row[0]:<12}" + "".join(f"{cell:>{w}}" for cell, w in zip(row[1:], widths, strict=True)) for row in rows
    ]
    unrestored = {name: dataset.unrestored_in_words(name) for name in description["splits"]}
    lines += [f"WARNING: {name}: {words}" for name, words in unrestored.items() if words is not None]
    if len(dataset.members) > 1:
        pairs = zip(description["weights"], dataset.members, strict=True)
        lines += [f"member of weight {weight:g}: {escape_unprintable(member.folder)}" for weight, member in pairs]
    return "\n".join(lines)


def verify(folder: AnyPath) -> int:
    """Compares every shard with the checksum written with it; returns the number of shards.

    Raises UserError that names the first damaged shard.
    """
    count = 0
    dataset = open_dataset(folder)
    for name in dataset.description["splits"]:
        for split in dataset.split(name):
            _ = split.reader  # sizes first: they cost nothing
            for shard in split.shards:
                with open(split.local / shard.file, "rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != shard.sha256:
                    path = split.local / shard.file
                    raise UserError(f"{path} is damaged: its SHA-256 is {found}, expected {shard.sha256}; {HOW_TO_FIX}")
                count += 1
    return count


def documents_of_step(batches: Batches, step: int, rows: Sequence[int] | None, characters: int) -> str:
    """The spans of documents in the batch of the update to step `step`, one line each."""
    spans = batches.documents(step - 1, rows, characters)
    names = [escape_unprintable(span.name) for span in spans]
    wide = max(map(len, names), default=0)
    sources = len(batches.dataset.members) > 1
    documents = format_counted(len({span.name for span in spans}), "document")
    lines = [f"step {step}: batch {step - 1}, {format_counted(len(spans), 'span')} of {documents}"]
    for span, name in zip(spans, names, strict=True):
        source = f"source {span.source}  " if sources else ""
        columns = f"{span.column}:{span.column + span.length}"
        tokens = f"tokens {span.start}:{span.stop} of {span.document_length}"
        lines.append(f"row {span.row:>4} {columns:>11}  {source}{name:<{wide}}  {tokens:<28} {span.text!r}")
    return "\n".join(lines)
