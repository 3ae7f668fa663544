"""What a field of an option changes, said where the field is declared.

    scan_layers: bool = dataclasses.field(default=True, metadata=HOW)

A field without a mark decides what is computed. Whoever compares two trees of options, to continue a run, to read a
checkpoint or to take the parameters of another model, asks here which differences do not matter to it.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from model.options import walk

Change = Literal["how", "training"]
# How a run is carried out and written down, and not what it computes.
HOW: dict[str, Change] = {"changes": "how"}
# How parameters are drawn and trained, and not what a model computes from them.
TRAINING: dict[str, Change] = {"changes": "training"}


def marked(option: Any, *changes: Change, path: str = "") -> Iterator[str]:
    """The paths of the fields of a tree that change nothing but what is named; the root lies under `path`."""
    for below, node in walk(option, path):
        for field in dataclasses.fields(node):
            if field.metadata.get("changes") in changes:
                yield f"{below}.{field.name}" if below else field.name


def without(lines: Iterable[str], paths: Iterable[str]) -> list[str]:
    """The lines of `model.options.differences` that are of no field at these paths, nor of one below it."""
    heads = tuple(f"{path}{end}" for path in paths for end in (".", ":"))
    return [line for line in lines if not line.startswith(heads)]
