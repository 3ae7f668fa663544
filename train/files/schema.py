"""Checks the values in a JSON file against a schema, since a user may have edited or truncated the file.

A schema is a type or a tuple of types (`int` is a whole number of 64 bits and not a bool, `float` any number that a
float can hold), `[schema]` for a list of such values, `{"name": schema}` for an object, where a name that ends in "?"
may be missing and other names may occur, `{...: schema}` for an object whose values all have one schema, and `object`
for anything.
"""

from collections.abc import Iterator
from typing import Any

from model.options.words import format_value

_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
_TYPE_NAMES |= {list: "a list", dict: "an object"}


def violations(value: Any, schema: Any, path: str = "") -> Iterator[str]:
    """Yields every part of a value that does not fit the schema, as `path: expected ..., got ...`."""
    if isinstance(schema, list | dict):
        if not isinstance(value, type(schema)):
            yield _violation(value, type(schema), path)
            return
        for name, inside, expected in _entries(value, schema):
            below = f"{path}.{name}" if path else str(name)
            if inside is _MISSING:
                yield f"{below}: is missing"
            else:
                yield from violations(inside, expected, below)
    elif not any(_has_type(value, kind) for kind in (schema if isinstance(schema, tuple) else (schema,))):
        yield _violation(value, schema, path)


def conforming(value: Any, schema: Any) -> Any:
    """A value without the parts that do not fit the schema; None if nothing is left."""
    part = _conforming_part(value, schema)
    return None if part is _MISSING else part


def _conforming_part(value: Any, schema: Any) -> Any:
    if not isinstance(schema, list | dict):
        return _MISSING if any(True for _ in violations(value, schema)) else value
    if not isinstance(value, type(schema)):
        return _MISSING
    known = {name: _conforming_part(inside, expected) for name, inside, expected in _entries(value, schema)}
    if isinstance(value, list):
        return [inside for inside in known.values() if inside is not _MISSING]
    return {name: inside for name, inside in (value | known).items() if inside is not _MISSING}


class _Missing:
    pass


_MISSING = _Missing()


def _entries(value: Any, schema: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yields (index or name, value, schema) for the entries of a list or an object."""
    if isinstance(value, list):
        yield from ((i, inside, schema[0]) for i, inside in enumerate(value))
    elif ... in schema:
        yield from ((name, inside, schema[...]) for name, inside in value.items())
    else:
        for key, expected in schema.items():
            name = key.removesuffix("?")
            if name in value or name == key:
                yield name, value.get(name, _MISSING), expected


def _has_type(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, float) or (_has_type(value, int) and abs(value) < 2**63)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, kind)


def _violation(value: Any, schema: Any, path: str) -> str:
    expected = " or ".join(_TYPE_NAMES[kind] for kind in (schema if isinstance(schema, tuple) else (schema,)))
    return f"{path or 'the whole value'}: expected {expected}, got {format_value(value)}"
