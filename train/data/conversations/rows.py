"""Conversations from rows of JSON, in the spellings that are common: every fault is named with its file and row.

{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}], "tools": [...]}
{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}], "system": "..."}
{"prompt": "...", "completion": "..."}            (or lists of messages)
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from model.errors import UserError
from train.data.text.compression import open_bytes
from train.data.text.file_types import UTF8_MARK, file_type_of
from train.data.text.files import list_files
from train.data.text.units import printable

# The names of roles in files, and in templates.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "ipython": "tool",
}
SPELLINGS = '"messages", "conversations", or "prompt" with "completion"'


class Row(NamedTuple):
    """An object of a file: its fields, the name of its document, and its place for errors."""

    fields: dict[str, Any]
    name: str
    where: str


class Conversation(NamedTuple):
    """The messages of a row, each with `role` and `content`, and the tools that the assistant may call."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    name: str
    where: str


def files_of(path: str) -> list[tuple[str, str]]:
    """The files of rows that a path stands for (a file, a folder, a glob), each with its name.

    Raises UserError where there are none, and for files of another kind.
    """
    files = list_files(path).files
    for file, _ in files:
        if file_type_of(file).format not in ("jsonl", "json"):
            raise UserError(
                f"{printable(file)} is no file of rows; expected .jsonl (an object on each line) or .json (an array of "
                "objects), perhaps compressed; write it so, or give a narrower path such as 'folder/*.jsonl'"
            )
    return files


def fingerprint(path: str) -> str:
    """A hash of the names and contents of a path's files."""
    digest = hashlib.sha256()
    for file, name in files_of(path):
        with open_bytes(file) as stream:
            digest.update(name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest())  # type: ignore[arg-type]
    return digest.hexdigest()[:16]


def read_rows(path: str) -> Iterator[Row]:
    """Yields the rows of a path's files in order. Raises UserError for a line that is not an object of JSON."""
    for file, name in files_of(path):
        shown = printable(file)
        with open_bytes(file) as stream:
            if file_type_of(file).format == "json":
                yield from _rows_of_array(stream.read(), shown, name)
                continue
            for number, line in enumerate(io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream, 1):
                line = line.removeprefix(UTF8_MARK) if number == 1 else line
                if line.strip():
                    where = f"{shown}, line {number}"
                    yield Row(_object(_parsed(line, where), where), f"{name}:{number}", where)


def _rows_of_array(content: bytes, shown: str, name: str) -> Iterator[Row]:
    items = _parsed(content.removeprefix(UTF8_MARK), shown)
    if not isinstance(items, list):
        raise UserError(f"{shown}: expected an array of objects; a file with an object on each line is named .jsonl")
    for number, item in enumerate(items, 1):
        where = f"{shown}, item {number}"
        yield Row(_object(item, where), f"{name}:{number}", where)


def _parsed(content: bytes, where: str) -> Any:
    try:
        return json.loads(content)
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 at its byte {error.start}; convert it: iconv -f OLD -t UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error.msg} (character {error.pos + 1} of it); mend the line") from None
    except RecursionError:
        raise UserError(f"{where} holds JSON that is nested too deeply to be read; mend or delete it") from None


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object, got {_kind(value)}")
    return value


def conversation_of(row: Row) -> Conversation:
    """The conversation of a row. Raises UserError for one of another form; see the module."""
    fields, where = row.fields, row.where
    if "messages" in fields:
        messages = messages_of(fields["messages"], f"{where}: messages")
    elif "conversations" in fields:
        messages = messages_of(fields["conversations"], f"{where}: conversations")
    elif "prompt" in fields and "completion" in fields:
        messages = messages_of(fields["prompt"], f"{where}: prompt", text_role="user")
        messages += messages_of(fields["completion"], f"{where}: completion", text_role="assistant")
    else:
        names = ", ".join(map(repr, list(fields)[:8])) or "none"
        raise UserError(f"{where}: expected {SPELLINGS}; its fields are {names}")
    if (system := fields.get("system")) not in (None, ""):
        if messages[0]["role"] == "system":
            raise UserError(f"{where}: has a field system, and its first message is one too; keep one of them")
        messages = [{"role": "system", "content": _text(system, f"{where}: system")}, *messages]
    return Conversation(messages, tools_of(row), row.name, where)


def tools_of(row: Row) -> list[Any] | None:
    """The tools of a row: a list of objects, which may be written as a text of JSON; None for none."""
    tools = row.fields.get("tools")
    if isinstance(tools, str) and tools:
        tools = _parsed(tools.encode(), f"{row.where}: tools")
    if tools in (None, "", []):
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise UserError(f"{row.where}: tools: expected a list of objects, got {_kind(tools)}")
    return tools


def messages_of(value: Any, where: str, text_role: str | None = None) -> list[dict[str, Any]]:
    """The messages of a field, with the names of roles and fields that templates know.

    Args:
      value: a list of messages with `role` and `content`, or `from` and `value`.
      where: the place of the field.
      text_role: the role of a value that is a text; None where there must be a list.

    Raises:
      UserError: for a value of another form, an unknown role, and a message without content.
    """
    if isinstance(value, str) and text_role is not None:
        return [{"role": text_role, "content": _text(value, where)}]
    if not isinstance(value, list) or not value:
        expected = "a list of messages" if text_role is None else "a text or a list of messages"
        raise UserError(f"{where}: expected {expected}, got {_kind(value)}")
    return [_message(item, f"{where}: message {number}") for number, item in enumerate(value, 1)]


def _message(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise UserError(f"{where}: expected an object with role and content, got {_kind(item)}")
    fields = dict(item)
    for other, name in (("from", "role"), ("value", "content")):
        if other in fields and name not in fields:
            fields[name] = fields.pop(other)
    role = fields.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise UserError(f"{where}: role {role!r} is unknown; expected one of {', '.join(ROLES)}")
    fields["role"] = ROLES[role]
    content = fields.get("content")
    if isinstance(content, list):
        content = _joined_parts(content, where)
    if content in (None, "") and fields.get("tool_calls"):
        return {**fields, "content": content}
    return {**fields, "content": _text(content, f"{where} ({role}): content")}


def _joined_parts(parts: list[Any], where: str) -> str:
    """The text of a content that is given as parts. Raises UserError for parts that are no text."""
    for part in parts:
        if not (isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str)):
            found = part.get("type") if isinstance(part, Mapping) else _kind(part)
            raise UserError(f"{where}: content: a part is {found!r}; only parts of text can be learned from")
    return "".join(part["text"] for part in parts)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: expected a text, got {_kind(value)}")
    if not value.strip():
        raise UserError(f"{where} is empty; leave the message or the row out, or give it a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: half of a character (a lone surrogate) at character {error.start}") from None
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return "an empty list" if value == [] else names.get(type(value), "a number")
