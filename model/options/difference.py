"""The fields in which two trees of options differ."""

from collections.abc import Mapping
from typing import Any

from model.options.words import join_path


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Lists the fields in which two JSON trees of options differ, one line each: `path: old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get("type") == new.get("type"):
        lines = []
        for name in sorted(set(old) | set(new)):
            lines += differences(old.get(name), new.get(name), join_path(path, name))
        return lines
    return [] if old == new else [f"{path}: {_format(old)} -> {_format(new)}"]


def _format(value: Any) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{k}={_format(v)}" for k, v in value.items() if k != "type")
        return f"{value.get('type', '')}({inside})"
    return repr(value)
