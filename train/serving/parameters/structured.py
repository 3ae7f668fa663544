"""The parameters that say which texts may be drawn: `response_format`, and those of servers that extend it."""

import json
from typing import Any

from model.errors import UserError
from model.inference.constraint import Constraint
from train.generation.constraints import ANY_OBJECT, MISSING, Form
from train.serving.parameters.body import Parameters
from train.serving.parameters.errors import ApiError, bad_parameter
from train.serving.parameters.options import Served

_OUTPUTS = "structured_outputs"
MOST_CHOICES = 10_000


def take_form(parameters: Parameters) -> tuple[str, Form] | None:
    """The texts that may be drawn, and the parameter that says so; None for all. Raises ApiError."""
    found: dict[str, Form | None] = {"response_format": _response_format(parameters)}
    if (value := parameters.take(_OUTPUTS)) is not None:
        if not isinstance(value, dict):
            raise parameters.wrong(_OUTPUTS, "an object with one of json, regex, choice, grammar, json_object", value)
        found |= _forms(Parameters(value, f"{_OUTPUTS}."), "", f"{_OUTPUTS}.")
    found |= _forms(parameters, "guided_", "", all_known=False)
    forms = [(name, form) for name, form in found.items() if form is not None]
    if len(forms) > 1:
        raise bad_parameter(forms[1][0], f"is given beside {forms[0][0]}; one of them says which texts may come")
    return forms[0] if forms else None


def compiled(name: str, form: Form, served: Served) -> Constraint:
    """The constraint of a form. Raises ApiError that names the parameter."""
    try:
        return served.constraints.of(form)
    except UserError as error:
        code = "constraints_not_installed" if str(error) == MISSING else "invalid_value"
        raise ApiError(400, f"{name}: {error}", parameter=name, code=code) from None


def _response_format(parameters: Parameters) -> Form | None:
    name = "response_format"
    value = parameters.take(name)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise parameters.wrong(name, 'an object such as {"type": "json_object"}', value)
    inside = Parameters(value, f"{name}.")
    kind, described = inside.text("type"), inside.take("json_schema")
    if kind not in ("text", "json_object", "json_schema"):
        raise inside.wrong("type", "text, json_object or json_schema", kind)
    if (kind == "json_schema") != (described is not None):
        raise bad_parameter(f"{name}.json_schema", "goes with type=json_schema, which needs it")
    inside.finish()
    if kind == "text":
        return None
    if kind == "json_object":
        return ANY_OBJECT
    if not isinstance(described, dict):
        raise inside.wrong("json_schema", "an object with a name and a schema", described)
    inside = Parameters(described, f"{name}.json_schema.")
    inside.text("name")
    inside.text("description")
    inside.flag("strict")  # texts always keep to the schema
    schema = _schema(inside, "schema")
    inside.finish()
    if schema is None:
        raise bad_parameter(f"{name}.json_schema.schema", "is missing")
    return schema


def _forms(inside: Parameters, prefix: str, where: str, all_known: bool = True) -> dict[str, Form | None]:
    """The forms that an object names, of which it should name one."""
    found: dict[str, Form | None] = {f"{where}{prefix}json": _schema(inside, f"{prefix}json")}
    for kind in ("regex", "grammar"):
        text = inside.text(prefix + kind)
        found[f"{where}{prefix}{kind}"] = None if text is None else Form(kind, text)
    choices = inside.take(f"{prefix}choice")
    if choices is not None:
        if not isinstance(choices, list) or not choices or not all(isinstance(text, str) for text in choices):
            raise inside.wrong(f"{prefix}choice", "a list of texts", choices)
        if len(choices) > MOST_CHOICES:
            raise bad_parameter(f"{where}{prefix}choice", f"has {len(choices):,} texts, more than {MOST_CHOICES:,}")
        found[f"{where}{prefix}choice"] = Form.choice(choices)
    if all_known:
        found[f"{where}json_object"] = ANY_OBJECT if inside.flag("json_object") else None
        inside.finish()
        if not any(found.values()):
            raise bad_parameter(where.rstrip("."), "names none of json, regex, choice, grammar, json_object")
    return found


def _schema(inside: Parameters, name: str) -> Form | None:
    """A JSON schema, as an object or as its text."""
    value: Any = inside.take(name)
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise inside.wrong(name, "a JSON schema", value) from None
    if not isinstance(value, dict | bool):
        raise inside.wrong(name, "a JSON schema, an object", value)
    return Form.json(value)
