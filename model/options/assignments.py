"""Options as typed: `--set path.to.field=value`, and the text of one value."""

import ast
import dataclasses
import warnings
from typing import Any, TypeVar

from model.errors import UserError
from model.options.annotations import alternatives, fields_of, has_type, item_annotation, option_classes
from model.options.json import as_float, construct
from model.options.tree import problem_of_value
from model.options.words import describe, format_value, nearest

T = TypeVar("T")


def override(option: T, assignment: str) -> T:
    """Returns a copy of the tree with one field changed, as in `--set path.to.field=value`.

    The value is a Python literal (`3e-4`, `True`, `None`, `"text"`, `(1, 2)`), a word without quotes for a string
    field, or an option by its class: `model.position=Rotary(theta=5e5)`. Raises UserError when the path or the value
    does not fit.
    """
    path, equals, text = assignment.partition("=")
    path = path.strip()
    if not equals or not path:
        raise UserError(
            f"--set {format_value(assignment)}: expected path.to.field=value, such as --set model.num_layers=8"
        )
    return _replace(option, type(option), path.split("."), text.strip(), f"--set {path}")


def _replace(node: Any, annotation: Any, steps: list[str], text: str, where: str) -> Any:
    """Returns the node with the value at the end of `steps` replaced; `annotation` is the node's annotation."""
    if not steps:
        value = parse_value(text, annotation, where)
        if (problem := problem_of_value(value, annotation)) is not None:
            expected = problem.rpartition(", got ")[0]
            raise UserError(f"{where}: {expected}, got {format_value(text)} ({type(value).__name__})")
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(node, tuple):
        if step not in (indices := [str(i) for i in range(len(node))]):
            raise UserError(f"{where}: {step!r} is not an index of a tuple of length {len(node)}")
        items, index = list(node), indices.index(step)
        items[index] = _replace(items[index], item_annotation(annotation), rest, text, where)
        return tuple(items)
    if not dataclasses.is_dataclass(node):
        raise UserError(
            f"{where}: {type(node).__name__} {format_value(node)} has no fields, so {step!r} cannot be set in it"
        )
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
        raise UserError(f"{where}: {format_value(text)} is nested too deeply") from None


def _parse(text: str, annotation: Any, where: str) -> Any:
    takes_text = str in alternatives(annotation)
    classes = option_classes(annotation)
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:  # ValueError: for a NUL or a surrogate
        if not takes_text and any(text.startswith(f"{name}(") for name in classes):
            why = error.msg if isinstance(error, SyntaxError) else str(error)
            raise UserError(
                f"{where}: {format_value(text)} is not a valid option: {why}; strings in it need quotes"
            ) from None
        return text
    name = node.func if isinstance(node, ast.Call) else node
    if isinstance(name, ast.Name) and name.id in classes:
        return _option_from_syntax(node, classes[name.id], text, where)
    if isinstance(node, ast.Call) and not takes_text:
        if not classes:
            raise UserError(f"{where}: expected {describe(annotation)}, got {format_value(text)}")
        class_name = _source(text, node.func)
        raise UserError(f"{where}: no option {format_value(class_name)} fits here; {nearest(class_name, classes)}")
    if isinstance(node, (ast.Tuple, ast.List)):
        item = item_annotation(annotation)
        value: Any = tuple(_parse(_source(text, element), item, where) for element in node.elts)
    else:
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError):  # a name or a sum; a set or a dict with unhashable members
            return text
    # A string field takes the text as typed, so that --set name=7 gives "7".
    return text if takes_text and not has_type(value, annotation) else as_float(value, annotation)


def _source(text: str, node: ast.expr) -> str:
    """Returns a part of the text as it was typed: a path such as a/b keeps its form."""
    return ast.get_source_segment(text, node) or ""


def _option_from_syntax(node: ast.expr, cls: type, text: str, where: str) -> Any:
    """Returns the option that a call of its class, or the name of its class, stands for."""
    known = fields_of(cls)
    values: dict[str, Any] = {}
    if isinstance(node, ast.Call):
        if node.args:
            example = f"{cls.__name__}({next(iter(known), '')}=...)"
            raise UserError(f"{where}: write the fields of {cls.__name__} by name, such as {example}")
        for keyword in node.keywords:
            field = keyword.arg or "**"
            if field not in known:
                raise UserError(f"{where}: {cls.__name__} has no field {field!r}; {nearest(field, known)}")
            if field in values:
                raise UserError(f"{where}: {field} is given twice in {format_value(text)}; leave one out")
            values[field] = _parse(_source(text, keyword.value), known[field], f"{where}.{field}")
    return construct(cls, values, where.removeprefix("--set "))
