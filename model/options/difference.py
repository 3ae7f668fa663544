"""The fields in which two trees of options differ."""

from collections.abc import Iterator, Mapping
from typing import Any

from model.options.words import join_path


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Lists the fields in which two JSON trees of options differ, one line each: `path: old -> new`."""
    return [f"{changed}: {before} -> {after}" for changed, before, after in changed_fields(old, new, path)]


def changed_fields(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yields the path of each field in which two JSON trees of options differ, and both values as text."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get("type") == new.get("type"):
        for name in sorted(set(old) | set(new)):
            yield from changed_fields(old.get(name), new.get(name), join_path(path, name))
    elif old != new:
        yield path, _format(old), _format(new)


def _format(value: Any) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{k}={_format(v)}" for k, v in value.items() if k != "type")
        return f"{value.get('type', '')}({inside})"
    return repr(value)
