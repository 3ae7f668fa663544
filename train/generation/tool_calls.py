"""Calls of tools: how a model writes them, by its chat template, and how they are found in its texts.

The published templates teach three ways, which this module knows:
  <tool_call>{"name": ..., "arguments": {...}}</tool_call>   Hermes, Qwen; several may follow a text
  {"name": ..., "parameters": {...}}                         LLaMA 3; the whole text
  [{"name": ..., "arguments": {...}}, ...]                   Mistral, after a mark that is no text; the whole text
"""

import dataclasses
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from train.generation.constraints import Form

BEGIN, END = "<tool_call>", "</tool_call>"


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a tool: its name, and its arguments as a JSON object."""

    name: str
    arguments: str


@dataclasses.dataclass(frozen=True)
class CallStyle:
    """How a model writes calls.

    Attributes:
      has_tags: whether each stands between <tool_call> and </tool_call>.
      arguments: the name of the field with the arguments.
    """

    has_tags: bool = False
    arguments: str = "arguments"


def style_of(template: str, marks: Collection[str]) -> CallStyle:
    """The style that a chat template teaches; `marks` are the names of tokens that are no text, such as tags may be."""
    if BEGIN in template:
        return CallStyle(has_tags=BEGIN not in marks and END not in marks)
    return CallStyle(arguments="parameters" if re.search(r"""["']parameters["']\s*:""", template) else "arguments")


def form_of_calls(tools: Mapping[str, Mapping[str, Any]], style: CallStyle, *, several: bool) -> Form:
    """The texts that are calls.

    Args:
      tools: the JSON schema of the arguments of each tool, by name.
      style: how the model writes them.
      several: whether more than one call may come, which a style without tags never has.
    """
    schema = {
        "$defs": {name: _moved(arguments, f"#/$defs/{name}") for name, arguments in tools.items()},
        "anyOf": [_schema_of_call(name, style) for name in tools],
    }
    if not style.has_tags:
        return Form.json(schema)
    more = f' ("\\n" "{BEGIN}\\n" call "\\n{END}")*' if several else ""
    source = f'start: "{BEGIN}\\n" call "\\n{END}"{more}\ncall: %json {json.dumps(schema)}\n'
    return Form("grammar", source)


def _schema_of_call(name: str, style: CallStyle) -> dict[str, Any]:
    fields = {"name": {"const": name}, style.arguments: {"$ref": f"#/$defs/{name}"}}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _moved(schema: Any, root: str) -> Any:
    """A schema whose references to itself are to its new place."""
    if isinstance(schema, Mapping):
        return {
            name: root + value[1:]
            if name == "$ref" and isinstance(value, str) and value.startswith("#")
            else _moved(value, root)
            for name, value in schema.items()
        }
    if isinstance(schema, Sequence) and not isinstance(schema, str):
        return [_moved(value, root) for value in schema]
    return schema


class CallReader:
    """Reads a text as it is drawn: shows what is no call, and holds back what may be one until the end."""

    def __init__(self, names: Collection[str], style: CallStyle) -> None:
        self._names, self._style = names, style
        self._held = ""
        self._is_call = self._is_text = False

    def push(self, text: str) -> str:
        """Takes a piece of the text; returns what can be shown now."""
        self._held += text
        end = 0 if self._is_call else self._end_of_text()
        shown, self._held = self._held[:end], self._held[end:]
        return shown

    def finish(self) -> tuple[str, list[Call]]:
        """Returns the rest of the text, and the calls; what was held and is not calls alone is text."""
        calls = self._calls(self._held)
        return (self._held, []) if calls is None else ("", calls)

    def _end_of_text(self) -> int:
        """The number of characters before a call, or before what may become one."""
        if self._style.has_tags:
            at = self._held.find(BEGIN)
            self._is_call = at >= 0
            ends = (n for n in range(len(BEGIN) - 1, 0, -1) if self._held.endswith(BEGIN[:n]))
            return at if self._is_call else len(self._held) - next(ends, 0)
        self._is_text |= self._held.lstrip()[:1] not in ("", "{", "[")
        return len(self._held) if self._is_text else 0

    def _calls(self, text: str) -> list[Call] | None:
        """The calls of a text that holds nothing else; None for any other."""
        if self._style.has_tags:
            parts = re.split(f"{BEGIN}|{END}", text)
            between, inside = parts[::2], parts[1::2]
            if not inside or any(part.strip() for part in between):
                return None
        else:
            inside = [text]
        calls: list[Call] = []
        for part in inside:
            try:
                value = json.loads(part)
            except (ValueError, RecursionError):
                return None
            for one in value if isinstance(value, list) else [value]:
                if (call := self._call(one)) is None:
                    return None
                calls.append(call)
        return calls or None

    def _call(self, value: Any) -> Call | None:
        """A call from its JSON: with its fields, or with them in `function` as in the interface."""
        if isinstance(value, dict) and isinstance(value.get("function"), dict):
            value = value["function"]
        if not isinstance(value, dict) or value.get("name") not in self._names:
            return None
        arguments = value.get("arguments", value.get("parameters", {}))
        if not isinstance(arguments, dict):
            return None
        return Call(value["name"], json.dumps(arguments, ensure_ascii=False))
