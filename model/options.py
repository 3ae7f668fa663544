"""Trees of options: check them, write them as JSON, read them back, change one field by its path.

An option is a frozen, keyword-only dataclass; the class of an option chooses a mechanism. The annotation of a field,
read at run time, says which values it may hold: numbers, strings, `Literal`, `tuple[X, ...]`, option classes, unions of
these. An option may define `problems()`, which yields `(field, message)` for values that make no sense.
"""

import ast
import contextlib
import dataclasses
import difflib
import types
import typing
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar

from model.errors import UserError

T = TypeVar("T")

LARGEST = 2**32 - 1  # the largest whole number of any option: seeds have 32 bits, sizes and steps have fewer


def fields_of(cls: Any) -> dict[str, Any]:
    """Returns the annotations of the fields of an option class, by name."""
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


def describe(annotation: Any) -> str:
    """Describes an annotation in the words of an error message."""
    words = []
    for a in alternatives(annotation):
        if a is type(None):
            words.append("None")
        elif typing.get_origin(a) is Literal:
            words += [repr(value) for value in typing.get_args(a)]
        elif typing.get_origin(a) is tuple:
            words.append(f"a tuple of {describe(typing.get_args(a)[0])}")
        elif dataclasses.is_dataclass(a):
            words.append(f"{a.__name__}(...)")  # type: ignore[union-attr]
        else:
            words.append(a.__name__)
    return " or ".join(words)


def nearest(name: str, known: Any) -> str:
    """Returns a hint that names the known word nearest to a misspelt word, or lists all known words."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"


# ---------------------------------------------------------------------------------------------------- checking


def conforms(value: Any, annotation: Any) -> bool:
    """Returns whether a value has the annotated type; an int is accepted as a float, a bool never as an int."""
    for a in alternatives(annotation):
        origin = typing.get_origin(a)
        if origin is Literal:
            if any(value == choice and type(value) is type(choice) for choice in typing.get_args(a)):
                return True
        elif origin is tuple:
            if isinstance(value, tuple) and all(conforms(item, typing.get_args(a)[0]) for item in value):
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


def shown(value: Any) -> str:
    """Formats any value for an error message, shortened if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:160]}... ({len(text):,} characters)"


def _fault(value: Any, annotation: Any) -> str | None:
    """Returns what is wrong with the type or the range of a field's value; None if nothing is wrong.

    Numbers must be finite, in float32 too, and whole numbers have at most 32 bits. NaN passes through comparisons, and
    no size or rate is infinite, so both are refused here for all options; None means "none" or "no limit".
    """
    if not conforms(value, annotation):
        return f"expected {describe(annotation)}, got {shown(value)} ({type(value).__name__})"
    takes_fractions = conforms(0.5, item_annotation(annotation) if isinstance(value, tuple) else annotation)
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, (int, float)):
            continue
        if takes_fractions and not _in_float32(number):
            return f"expected a finite number, 0 or of magnitude 1.2e-38 to 3.4e38 (float32), got {shown(number)}"
        if not takes_fractions and abs(number) > LARGEST:
            return f"expected a whole number of at most {LARGEST:,}, got {shown(number)}"
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
        _join(below, name): fault
        for below, node in walk(option, path)
        for name, annotation in fields_of(type(node)).items()
        if (fault := _fault(getattr(node, name), annotation)) is not None
    }
    found = []
    for below, node in walk(option, path):
        fields = [_join(below, name) for name in fields_of(type(node))]
        found += [f"{field}: {mistyped[field]}" for field in fields if field in mistyped]
        # `problems` may read the options below, so it is called only if all of them have the right types.
        sound = not any(field.startswith(_join(below, "")) for field in mistyped)
        if sound and hasattr(node, "problems"):
            found += [f"{_join(below, name)}: {message}" for name, message in node.problems()]
    return found


def check(option: Any, path: str = "") -> None:
    """Raises UserError with every problem of a tree of options, if there is any."""
    found = find_problems(option, path)
    if found:
        heading = "this config cannot be built:" if len(found) == 1 else f"this config has {len(found)} problems:"
        raise UserError("\n  ".join([heading, *found]))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


# -------------------------------------------------------------------------------------------------------- JSON


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
                raise UserError(f"{_join(path, name)}: {cls.__name__} has no such field; {nearest(name, known)}")
        given = {n: from_json(known[n], v, _join(path, n)) for n, v in value.items() if n != "type"}
        return _construct(cls, given, path)
    if isinstance(value, list):
        item = item_annotation(annotation)
        return tuple(from_json(item, v, f"{path}.{i}") for i, v in enumerate(value))  # type: ignore[return-value]
    return _as_float(value, annotation)


def _as_float(value: Any, annotation: Any) -> Any:
    """Returns an int as a float where the annotation says float: JAX would read a large int as an int of 32 bits."""
    if conforms(value, int) and float in alternatives(annotation) and int not in alternatives(annotation):
        with contextlib.suppress(OverflowError):  # `check` refuses numbers that are too large
            return float(value)
    return value


def option_from_json(annotation: type[T] | Any, value: Any, path: str = "") -> T:
    """Returns the checked option from a file's JSON. Raises UserError for JSON that is no option, or has problems."""
    option: T = from_json(annotation, value, path)
    if not conforms(option, annotation):
        raise UserError(f"{path or 'the root'}: expected {describe(annotation)}, got {shown(value)}")
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


def _construct(cls: type, given: dict[str, Any], path: str) -> Any:
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in given and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        where = f"{path}: " if path else ""
        raise UserError(f"{where}{cls.__name__} needs a value for {', '.join(missing)}")
    return cls(**given)


# --------------------------------------------------------------------------------------------------- overriding


def override(option: T, assignment: str) -> T:
    """Returns a copy of the tree with one field changed, as in `--set path.to.field=value`.

    The value is a Python literal (`3e-4`, `True`, `None`, `"text"`, `(1, 2)`), a word without quotes for a string
    field, or an option by its class: `model.position=Rotary(theta=5e5)`. Raises UserError when the path or the value
    does not fit.
    """
    path, equals, text = assignment.partition("=")
    path = path.strip()
    if not equals or not path:
        raise UserError(f"--set {shown(assignment)}: expected path.to.field=value, such as --set model.num_layers=8")
    return _replace(option, type(option), path.split("."), text.strip(), f"--set {path}")


def _replace(node: Any, annotation: Any, steps: list[str], text: str, where: str) -> Any:
    """Returns the node with the value at the end of `steps` replaced; `annotation` is the node's annotation."""
    if not steps:
        value = parse_value(text, annotation, where)
        if (fault := _fault(value, annotation)) is not None:
            expected = fault.rpartition(", got ")[0]
            raise UserError(f"{where}: {expected}, got {shown(text)} ({type(value).__name__})")
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(node, tuple):
        if step not in (indices := [str(i) for i in range(len(node))]):
            raise UserError(f"{where}: {step!r} is not an index of a tuple of length {len(node)}")
        items, index = list(node), indices.index(step)
        items[index] = _replace(items[index], item_annotation(annotation), rest, text, where)
        return tuple(items)
    if not dataclasses.is_dataclass(node):
        raise UserError(f"{where}: {type(node).__name__} {shown(node)} has no fields, so {step!r} cannot be set in it")
    known = fields_of(type(node))
    if step not in known:
        raise UserError(f"{where}: {type(node).__name__} has no field {step!r}; {nearest(step, known)}")
    value = _replace(getattr(node, step), known[step], rest, text, where)
    return dataclasses.replace(node, **{step: value})  # type: ignore[type-var]


def parse_value(text: str, annotation: Any, where: str) -> Any:
    """Returns the value that a text stands for, given the annotation of the field.

    `where` is the start of error messages, such as "--set model.position". If the text is no value that the annotation
    allows, the result is the text itself, so that a string needs no quotes. Raises UserError for an option with wrong
    syntax.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a text such as "C:\d" needs no warning
            return _parse(text, annotation, where)
    except (RecursionError, MemoryError):  # Python's parser raises both
        raise UserError(f"{where}: {shown(text)} is nested too deeply") from None


def _parse(text: str, annotation: Any, where: str) -> Any:
    takes_text = str in alternatives(annotation)
    classes = option_classes(annotation)
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:  # ValueError: for a NUL or a surrogate
        if not takes_text and any(text.startswith(f"{name}(") for name in classes):
            why = error.msg if isinstance(error, SyntaxError) else str(error)
            raise UserError(f"{where}: {shown(text)} is not a valid option: {why}; strings in it need quotes") from None
        return text
    name = node.func if isinstance(node, ast.Call) else node
    if isinstance(name, ast.Name) and name.id in classes:
        return _option_from_syntax(node, classes[name.id], text, where)
    if isinstance(node, ast.Call) and not takes_text:
        if not classes:
            raise UserError(f"{where}: expected {describe(annotation)}, got {shown(text)}")
        called = _source(text, node.func)
        raise UserError(f"{where}: no option {shown(called)} fits here; {nearest(called, classes)}")
    if isinstance(node, (ast.Tuple, ast.List)):
        item = item_annotation(annotation)
        value: Any = tuple(_parse(_source(text, element), item, where) for element in node.elts)
    else:
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError):  # a name or a sum; a set or a dict with unhashable members
            return text
    # A string field takes the text as typed, so that --set name=7 gives "7".
    return text if takes_text and not conforms(value, annotation) else _as_float(value, annotation)


def _source(text: str, node: ast.expr) -> str:
    """Returns a part of the text as it was typed: a path such as a/b keeps its form."""
    return ast.get_source_segment(text, node) or ""


def _option_from_syntax(node: ast.expr, cls: type, text: str, where: str) -> Any:
    """Returns the option that a call of its class, or the name of its class, stands for."""
    known = fields_of(cls)
    given: dict[str, Any] = {}
    if isinstance(node, ast.Call):
        if node.args:
            example = f"{cls.__name__}({next(iter(known), '')}=...)"
            raise UserError(f"{where}: write the fields of {cls.__name__} by name, such as {example}")
        for keyword in node.keywords:
            field = keyword.arg or "**"
            if field not in known:
                raise UserError(f"{where}: {cls.__name__} has no field {field!r}; {nearest(field, known)}")
            if field in given:
                raise UserError(f"{where}: {field} is given twice in {shown(text)}; leave one out")
            given[field] = _parse(_source(text, keyword.value), known[field], f"{where}.{field}")
    return _construct(cls, given, where.removeprefix("--set "))


# ---------------------------------------------------------------------------------------------------- comparing


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Lists the fields in which two JSON trees of options differ, one line each: `path: old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get("type") == new.get("type"):
        lines = []
        for name in sorted(set(old) | set(new)):
            lines += differences(old.get(name), new.get(name), _join(path, name))
        return lines
    return [] if old == new else [f"{path}: {_brief(old)} -> {_brief(new)}"]


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{k}={_brief(v)}" for k, v in value.items() if k != "type")
        return f"{value.get('type', '')}({inside})"
    return repr(value)
