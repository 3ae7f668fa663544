"""Marks on the fields of options that change how something is computed or trained, and not its result.

    scan_layers: bool = dataclasses.field(default=True, metadata=EXECUTION_ONLY)

A field without a mark changes the result. Code that compares two trees of options, to continue a run, to read a
checkpoint or to take the parameters of another model, ignores differences in marked fields.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, Literal

from model.errors import UserError
from model.options.tree import walk

Change = Literal["execution", "training", "parts"]
# The field changes how a run is carried out and recorded, not its results.
EXECUTION_ONLY: dict[str, Change] = {"changes": "execution"}
# The field changes how parameters are drawn and trained, not the function that they are parameters of.
TRAINING_ONLY: dict[str, Change] = {"changes": "training"}
# The field adds a part to the model, or is None; a run whose model lacks the part can start a run that has it.
ADDED_PART: dict[str, Change] = {"changes": "parts"}
# The field is a width, a number of heads, or the width of a head: a wider model has more of it, in proportion. The
# widths of a model grow, and either its heads or their width. A single head and None stay as they are.
Grows = Literal["width", "heads", "head_dim"]
WIDTH: dict[str, Grows] = {"grows": "width"}
HEADS: dict[str, Grows] = {"grows": "heads"}
HEAD_DIM: dict[str, Grows] = {"grows": "head_dim"}


def marked_fields(option: Any, *changes: Change, path: str = "") -> Iterator[str]:
    """Yields the paths of the fields of a tree that have one of these marks; `path` is the path of the root."""
    for below, node in walk(option, path):
        for field in dataclasses.fields(node):
            if field.metadata.get("changes") in changes:
                yield f"{below}.{field.name}" if below else field.name


def resized(option: Any, ratio: Fraction, wider: Literal["heads", "head_dim"] = "heads") -> Any:
    """Returns a tree of options for a model `ratio` times as wide, with as many times the heads, or wider heads.

    Raises UserError for a number that would be no whole number.
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(option):
        value = getattr(option, field.name)
        grows = field.metadata.get("grows")
        if grows in ("width", wider) and value is not None and (grows, value) != ("heads", 1):
            grown = value * ratio
            if grown.denominator != 1 or grown < 1:
                raise UserError(
                    f"{type(option).__name__}.{field.name}={value} cannot be {float(ratio):g} times as large: that is "
                    f"{float(grown):g}; choose widths for which it is a whole number"
                )
            changes[field.name] = int(grown)
        elif isinstance(value, tuple):
            changes[field.name] = tuple(resized(x, ratio, wider) if dataclasses.is_dataclass(x) else x for x in value)
        elif dataclasses.is_dataclass(value):
            changes[field.name] = resized(value, ratio, wider)
    return dataclasses.replace(option, **changes)


def exclude_paths(lines: Iterable[str], paths: Iterable[str]) -> list[str]:
    """The lines of `differences` without those of fields at or below these paths."""
    heads = tuple(f"{path}{end}" for path in paths for end in (".", ":"))
    return [line for line in lines if not line.startswith(heads)]
