"""Checks the form of the values in a JSON file, since a user may have edited or truncated the file.

A form is a type or a tuple of types (`int` is a whole number of 64 bits and not a bool, `float` any number that a float
can hold), `[form]` for a list of values of that form, `{"name": form}` for an object, where a name that ends in "?" may
be missing and other names may occur, `{...: form}` for an object whose values all have one form, and `object` for
anything.
"""

from collections.abc import Iterator
from typing import Any

from model.options.words import format_value

_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
_WORDS |= {list: "a list", dict: "an object"}


def misfits(value: Any, form: Any, path: str = "") -> Iterator[str]:
    """Yields every part of a value that does not fit its form, as `path: expected ..., got ...`."""
    if isinstance(form, list | dict):
        if not isinstance(value, type(form)):
            yield _misfit(value, type(form), path)
            return
        for name, inside, expected in _inside(value, form):
            below = f"{path}.{name}" if path else str(name)
            if inside is _MISSING:
                yield f"{below}: is missing"
            else:
                yield from misfits(inside, expected, below)
    elif not any(_is(value, kind) for kind in (form if isinstance(form, tuple) else (form,))):
        yield _misfit(value, form, path)


def fitted(value: Any, form: Any) -> Any:
    """A value without the parts that do not fit its form; None if nothing is left."""
    kept = _kept(value, form)
    return None if kept is _MISSING else kept


def _kept(value: Any, form: Any) -> Any:
    if not isinstance(form, list | dict):
        return _MISSING if any(True for _ in misfits(value, form)) else value
    if not isinstance(value, type(form)):
        return _MISSING
    known = {name: _kept(inside, expected) for name, inside, expected in _inside(value, form)}
    if isinstance(value, list):
        return [inside for inside in known.values() if inside is not _MISSING]
    return {name: inside for name, inside in (value | known).items() if inside is not _MISSING}


class _Missing:
    pass


_MISSING = _Missing()


def _inside(value: Any, form: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yields (index or name, value, form) for the entries of a list or an object."""
    if isinstance(value, list):
        yield from ((i, inside, form[0]) for i, inside in enumerate(value))
    elif ... in form:
        yield from ((name, inside, form[...]) for name, inside in value.items())
    else:
        for key, expected in form.items():
            name = key.removesuffix("?")
            if name in value or name == key:
                yield name, value.get(name, _MISSING), expected


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, float) or (_is(value, int) and abs(value) < 2**63)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, kind)


def _misfit(value: Any, form: Any, path: str) -> str:
    expected = " or ".join(_WORDS[kind] for kind in (form if isinstance(form, tuple) else (form,)))
    return f"{path or 'the whole value'}: expected {expected}, got {format_value(value)}"
