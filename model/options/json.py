"""Options as JSON, in config.json and beside tokenizers, and back."""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from model.errors import UserError
from model.options.annotations import alternatives, fields_of, has_type, item_annotation, option_classes
from model.options.tree import check
from model.options.words import describe, format_value, join_path, nearest

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Returns a tree of options as JSON values; an option becomes an object whose "type" is its class name."""
    if dataclasses.is_dataclass(value):
        return {"type": type(value).__name__} | {n: to_json(getattr(value, n)) for n in fields_of(type(value))}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def from_json(annotation: type[T] | Any, value: Any, path: str = "") -> T:
    """Returns the tree of options that `to_json` wrote. Raises UserError for unknown or missing classes and fields."""
    classes = option_classes(annotation)
    if isinstance(value, Mapping):
        cls = _class_named(value.get("type"), classes, annotation, path)
        known = fields_of(cls)
        for name in value:
            if name != "type" and name not in known:
                raise UserError(f"{join_path(path, name)}: {cls.__name__} has no such field; {nearest(name, known)}")
        values = {n: from_json(known[n], v, join_path(path, n)) for n, v in value.items() if n != "type"}
        return construct(cls, values, path)
    if isinstance(value, list):
        item = item_annotation(annotation)
        return tuple(from_json(item, v, f"{path}.{i}") for i, v in enumerate(value))  # type: ignore[return-value]
    return as_float(value, annotation)


def as_float(value: Any, annotation: Any) -> Any:
    """Returns an int as a float where the annotation says float: JAX would read a large int as an int of 32 bits."""
    if has_type(value, int) and float in alternatives(annotation) and int not in alternatives(annotation):
        with contextlib.suppress(OverflowError):  # `check` refuses numbers that are too large
            return float(value)
    return value


def option_from_json(annotation: type[T] | Any, value: Any, path: str = "") -> T:
    """Returns the checked option from a file's JSON. Raises UserError for JSON that is no option, or has problems."""
    option: T = from_json(annotation, value, path)
    if not has_type(option, annotation):
        raise UserError(f"{path or 'the root'}: expected {describe(annotation)}, got {format_value(value)}")
    if dataclasses.is_dataclass(option):
        check(option, path)
    return option


def _class_named(name: Any, classes: dict[str, type], annotation: Any, path: str) -> type:
    if name is None and len(classes) == 1:
        return next(iter(classes.values()))
    if not isinstance(name, str) or name not in classes:
        where = path or "the root"
        if not classes:
            raise UserError(f"{where}: expected {describe(annotation)}, got an option of type {name!r}")
        raise UserError(f"{where}: no option {name!r} fits here; {nearest(str(name), classes)}")
    return classes[name]


def construct(cls: type, values: dict[str, Any], path: str) -> Any:
    """The option of a class with these fields. Raises UserError for fields that lack a value."""
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        where = f"{path}: " if path else ""
        raise UserError(f"{where}{cls.__name__} needs a value for {', '.join(missing)}")
    return cls(**values)
