"""Annotations of the fields of options, read at run time: which classes and values they allow."""

import dataclasses
import functools
import types
import typing
from typing import Any, Literal


def fields_of(cls: Any) -> dict[str, Any]:
    """Returns the annotations of the fields of an option class, by name."""
    return dict(_fields_of(cls))


@functools.cache  # a solver of sizes (train/lab/knobs.py) checks hundreds of trees
def _fields_of(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the annotation alone."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def option_classes(annotation: Any) -> dict[str, type]:
    """Returns the option classes that an annotation allows, by name."""
    return {a.__name__: a for a in alternatives(annotation) if dataclasses.is_dataclass(a)}  # type: ignore[union-attr, misc]


def item_annotation(annotation: Any) -> Any:
    """Returns the annotation of the items of a tuple; `Any` if the annotation allows no tuple."""
    inside = [typing.get_args(a)[0] for a in alternatives(annotation) if typing.get_origin(a) is tuple]
    return inside[0] if inside else Any


def has_type(value: Any, annotation: Any) -> bool:
    """Returns whether a value has the annotated type; an int is accepted as a float, a bool never as an int."""
    for a in alternatives(annotation):
        origin = typing.get_origin(a)
        if origin is Literal:
            if any(value == choice and type(value) is type(choice) for choice in typing.get_args(a)):
                return True
        elif origin is tuple:
            if isinstance(value, tuple) and all(has_type(item, typing.get_args(a)[0]) for item in value):
                return True
        elif a is float:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return True
        elif a is int:
            if isinstance(value, int) and not isinstance(value, bool):
                return True
        elif a is Any or isinstance(value, a):
            return True
    return False
