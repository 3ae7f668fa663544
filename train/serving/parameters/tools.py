"""Tools in chats: their definitions, the choice among them, and the messages that call them and answer."""

import dataclasses
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from train.generation.constraints import Form
from train.generation.tool_calls import Call, CallReader, CallStyle, form_of_calls, style_of
from train.serving.parameters.body import Parameters
from train.serving.parameters.errors import ApiError, bad_parameter
from train.serving.parameters.options import Served

_NAME = re.compile("[A-Za-z0-9_.-]{1,64}")
_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclasses.dataclass(frozen=True)
class Tools:
    """The tools that a chat may call.

    Attributes:
      definitions: as the chat template shows them.
      schemas: the JSON schema of the arguments of each tool that may be called.
      style: how the model writes calls.
      must: whether the answer is a call.
      several: whether it may be more than one.
    """

    definitions: tuple[Mapping[str, Any], ...]
    schemas: Mapping[str, Mapping[str, Any]]
    style: CallStyle
    must: bool = False
    several: bool = True

    def form(self) -> Form | None:
        """The texts that may be drawn; None for all."""
        return form_of_calls(self.schemas, self.style, several=self.several) if self.must else None

    def reader(self) -> CallReader:
        """Reads an answer."""
        return CallReader(self.schemas, self.style)

    def shown(self, calls: list[Call]) -> list[dict[str, Any]]:
        """Calls as the interface writes them."""
        return [
            {
                "id": f"call_{uuid.uuid4().hex[:24]}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in (calls if self.several else calls[:1])
        ]


def take_tools(parameters: Parameters, served: Served) -> Tools | None:
    """The tools of a request; None without any, and where none is to be called. Raises ApiError."""
    definitions = parameters.take("tools", [])
    several = parameters.flag("parallel_tool_calls", True)
    choice = parameters.take("tool_choice", "auto" if definitions else "none")
    if not isinstance(definitions, list):
        raise parameters.wrong("tools", "a list of objects", definitions)
    if len(definitions) > 128:
        raise bad_parameter("tools", f"has {len(definitions)} tools; at most 128 are shown")
    schemas = dict(_tool(tool, f"tools[{place}]") for place, tool in enumerate(definitions))
    if len(schemas) < len(definitions):
        raise bad_parameter("tools", "has two tools of one name")
    chosen = _chosen(parameters, choice)
    if chosen is not None and chosen not in schemas:
        raise bad_parameter("tool_choice", f"names {chosen[:60]!r}, which is not among the tools")
    if choice == "none":
        return None
    if not definitions:
        raise bad_parameter("tool_choice", "needs tools")
    template = "" if served.chat is None else served.chat.template_source
    if served.chat is not None and not served.chat.shows_tools:
        raise ApiError(
            400,
            "the chat template of this model shows no tools; give one that does as --chat_template, or take a model "
            "that was taught to call them",
            parameter="tools",
            code="no_tools_in_template",
        )
    return Tools(
        definitions=tuple(definitions),
        schemas=schemas if chosen is None else {chosen: schemas[chosen]},
        style=style_of(template, served.tokenizer.marks()),
        must=choice != "auto",
        several=several and chosen is None,
    )


def _chosen(parameters: Parameters, choice: Any) -> str | None:
    """The name of the one tool that is to be called; None for any or none."""
    if choice in ("none", "auto", "required"):
        return None
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        expected = 'none, auto, required, or {"type": "function", "function": {"name": "..."}}'
        raise parameters.wrong("tool_choice", expected, choice)
    name: str = function["name"]
    return name


def _tool(value: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(value, dict):
        raise bad_parameter(where, "must be an object with type and function")
    outside = Parameters(value, f"{where}.")
    kind, function = outside.take("type"), outside.take("function")
    if kind != "function":
        raise outside.wrong("type", "function", kind)
    if not isinstance(function, dict):
        raise outside.wrong("function", "an object with a name and parameters", function)
    outside.finish()
    inside = Parameters(function, f"{where}.function.")
    name, schema = inside.text("name"), inside.take("parameters", _NO_ARGUMENTS)
    inside.text("description")
    inside.flag("strict")
    inside.finish()
    if name is None or not _NAME.fullmatch(name):
        raise inside.wrong("name", "1 to 64 letters, digits, dots, dashes and underscores", name)
    if not isinstance(schema, dict):
        raise inside.wrong("parameters", "a JSON schema, an object", schema)
    return name, schema


def past_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """The calls of an earlier answer as chat templates read them: arguments as an object. Raises ApiError."""
    if not isinstance(value, list):
        raise bad_parameter(where, "must be a list of calls")
    return [_past_call(call, f"{where}[{place}]") for place, call in enumerate(value)]


def _past_call(value: Any, where: str) -> dict[str, Any]:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise bad_parameter(where, "must be an object with an id, type=function, and a function with its name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise bad_parameter(f"{where}.function.arguments", "must be JSON") from None
    if not isinstance(arguments, dict):
        raise bad_parameter(f"{where}.function.arguments", "must be a JSON object")
    identity = {"id": value["id"]} if isinstance(value.get("id"), str) else {}
    return {**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}}
