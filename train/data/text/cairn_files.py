"""Recognises the files that Cairn wrote by their marks, not by their names: they are never text to learn from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection

RUN = "a run folder"
DATASET = "a dataset folder"
_SWEEP = "the folder of a sweep"
_PUBLISHED = "a folder of weights"
_CACHE = "a cache of compiled programs"
# The files and folders of a run folder; a user may keep text beside them.
_LOGS = ("metrics.jsonl", "throughput.jsonl", "statistics.jsonl", "samples.txt")
RUN_FILES = (
    *(
        "config.json",
        "data.json",
        "environment.json",
        "parameters.json",
        "status.json",
        "time_spent.jsonl",
        "wandb.json",
    ),
    *("environment.json.damaged", "evaluation.json", "files.txt", "report.html", "time_spent.jsonl"),
    *_LOGS,
    *(f"{name}.old" for name in _LOGS),
)
RUN_FOLDERS = (
    "data",
    "evaluations",
    "checkpoints",
    "tensorboard",
    "origin",
    "damaged",
    "wandb",
    "logs",
    "profile",
    "spikes",
    "perplexity",
    "inspection",
)
# The marks that train.report writes into a page and into a picture.
REPORT_MARK = re.compile(rb"<title>[^<{]*: Cairn report</title>")
PICTURE_MARK = b"Software\0Cairn"
_COMPILED_PROGRAM = re.compile(r".+-[0-9a-f]{64}-(cache|atime)")
# A description of a run or a dataset is far smaller.
_MAX_DESCRIPTION_BYTES = 64 << 20


def kind_of_folder(folder: str, names: Collection[str]) -> str | None:
    """The kind of a folder that Cairn wrote, given the names of all its entries; None for any other folder."""
    if "config.json" in names:
        keys = _keys(folder, "config.json")
        if {"model", "data", "training"} <= keys:
            return RUN
        if {"model_type", "architectures"} & keys and any(name.endswith(".safetensors") for name in names):
            return _PUBLISHED
    if "sweep.json" in names and {"format", "variants", "seeds"} <= _keys(folder, "sweep.json"):
        return _SWEEP
    if "status.json" in names and "environment.json" in names and "metrics.jsonl" in names:
        return RUN  # whose config.json is lost
    if "tokenizer_option.json" in names:
        return DATASET
    if "settings.json" in names and {"format", "tokenizer", "sources", "texts"} <= _keys(folder, "settings.json"):
        return DATASET  # that has no tokenizer yet
    if any(_COMPILED_PROGRAM.fullmatch(name) for name in names):
        return _CACHE
    return None


def kind_of_file(name: str, head: bytes) -> str | None:
    """The kind of a file that Cairn wrote outside of its folders, given its first bytes; None for any other file."""
    if name.lower().endswith((".html", ".htm")) and REPORT_MARK.search(head):
        return "a report"
    if PICTURE_MARK in head and head.startswith(b"\x89PNG"):
        return "a picture of a report"
    return None


def kind_at_path(folder: str) -> str | None:
    """The kind of the folder at a path, as `kind_of_folder` tells it; None where the folder cannot be listed."""
    try:
        return kind_of_folder(folder, set(os.listdir(folder)))
    except (OSError, ValueError):
        return None


def enclosing_run(path: str) -> str | None:
    """The folder of the run that wrote a file or folder, given its real path; None where no run did."""
    folder, name = os.path.split(path)
    if name in RUN_FILES and kind_at_path(folder) == RUN:
        return folder
    while name:
        if name in RUN_FOLDERS and kind_at_path(folder) == RUN:
            return folder
        folder, name = os.path.split(folder)
    return None


def _keys(folder: str, name: str) -> frozenset[str]:
    """The keys of the JSON object in a file; none where there is no such object."""
    path = os.path.join(folder, name)
    try:
        if os.path.getsize(path) > _MAX_DESCRIPTION_BYTES:
            return frozenset()
        with open(path, "rb") as file:
            value = json.load(file, parse_int=float)
    except (OSError, ValueError, RecursionError):
        return frozenset()
    return frozenset(value) if isinstance(value, dict) else frozenset()
