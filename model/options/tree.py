"""Trees of options: walk them, find their problems and what deserves a warning.

The annotation of a field says which values it may hold: numbers, strings, `Literal`, `tuple[X, ...]`, option classes,
unions of these. An option may define `problems()`, which yields `(field, message)` for values that make no sense.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from model.errors import UserError
from model.options.annotations import fields_of, has_type, item_annotation
from model.options.words import describe, format_value, join_path

MAX_INT = 2**32 - 1  # the largest whole number of any option: seeds have 32 bits, sizes and steps have fewer


def problem_of_value(value: Any, annotation: Any) -> str | None:
    """Returns what is wrong with the type or the range of a field's value; None if nothing is wrong.

    Numbers must be finite, in float32 too, and whole numbers have at most 32 bits. NaN passes through comparisons, and
    no size or rate is infinite, so both are refused here for all options; None means "none" or "no limit".
    """
    if not has_type(value, annotation):
        return f"expected {describe(annotation)}, got {format_value(value)} ({type(value).__name__})"
    takes_fractions = has_type(0.5, item_annotation(annotation) if isinstance(value, tuple) else annotation)
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, (int, float)):
            continue
        if takes_fractions and not _in_float32(number):
            return (
                f"expected a finite number, 0 or of magnitude 1.2e-38 to 3.4e38 (float32), got {format_value(number)}"
            )
        if not takes_fractions and abs(number) > MAX_INT:
            return f"expected a whole number of at most {MAX_INT:,}, got {format_value(number)}"
    return None


def _in_float32(number: float) -> bool:
    return number == 0 or 1.2e-38 <= abs(number) <= 3.4e38  # float32 flushes smaller numbers to 0


def walk(option: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every option of a tree with its path, starting with the root at `path`."""
    yield path, option
    for name in fields_of(type(option)):
        value = getattr(option, name)
        below = f"{path}.{name}" if path else name
        if _is_option(value):
            yield from walk(value, below)
        elif isinstance(value, tuple):
            for i, item in enumerate(value):
                if _is_option(item):
                    yield from walk(item, f"{below}.{i}")


def _is_option(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)  # a class without parentheses is no option


def find_problems(option: Any, path: str = "") -> list[str]:
    """Lists every wrong type, unbounded number and refused value of a tree, one line each, starting with its path."""
    mistyped = {
        join_path(below, name): problem
        for below, node in walk(option, path)
        for name, annotation in fields_of(type(node)).items()
        if (problem := problem_of_value(getattr(node, name), annotation)) is not None
    }
    found = []
    for below, node in walk(option, path):
        fields = [join_path(below, name) for name in fields_of(type(node))]
        found += [f"{field}: {mistyped[field]}" for field in fields if field in mistyped]
        # `problems` may read the options below, so it is called only if all of them have the right types.
        types_are_valid = not any(field.startswith(join_path(below, "")) for field in mistyped)
        if types_are_valid and hasattr(node, "problems"):
            found += [f"{join_path(below, name)}: {message}" for name, message in node.problems()]
    return found


def find_warnings(option: Any, path: str = "") -> list[str]:
    """Lists the fields of a valid tree with which training makes little sense, one line each, starting with its path.

    An option may define `warnings()`, which yields `(field, message)`. A rule of training warns and does not refuse:
    a published model may break it.
    """
    return [
        f"{join_path(below, name)}: {message}"
        for below, node in walk(option, path)
        if hasattr(node, "warnings")
        for name, message in node.warnings()
    ]


def check(option: Any, path: str = "") -> None:
    """Raises UserError with every problem of a tree of options, if there is any."""
    found = find_problems(option, path)
    if found:
        heading = "this config cannot be built:" if len(found) == 1 else f"this config has {len(found)} problems:"
        raise UserError("\n  ".join([heading, *found]))
