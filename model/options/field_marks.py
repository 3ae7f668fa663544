"""Marks on the fields of options that change how something is computed or trained, and not its result.

    scan_layers: bool = dataclasses.field(default=True, metadata=EXECUTION_ONLY)

A field without a mark changes the result. Code that compares two trees of options, to continue a run, to read a
checkpoint or to take the parameters of another model, ignores differences in marked fields.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from model.options.tree import walk

Change = Literal["execution", "training"]
# The field changes how a run is carried out and recorded, not its results.
EXECUTION_ONLY: dict[str, Change] = {"changes": "execution"}
# The field changes how parameters are drawn and trained, not the function that they are parameters of.
TRAINING_ONLY: dict[str, Change] = {"changes": "training"}


def marked_fields(option: Any, *changes: Change, path: str = "") -> Iterator[str]:
    """Yields the paths of the fields of a tree that have one of these marks; `path` is the path of the root."""
    for below, node in walk(option, path):
        for field in dataclasses.fields(node):
            if field.metadata.get("changes") in changes:
                yield f"{below}.{field.name}" if below else field.name


def exclude_paths(lines: Iterable[str], paths: Iterable[str]) -> list[str]:
    """The lines of `differences` without those of fields at or below these paths."""
    heads = tuple(f"{path}{end}" for path in paths for end in (".", ":"))
    return [line for line in lines if not line.startswith(heads)]
