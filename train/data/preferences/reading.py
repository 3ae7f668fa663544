"""Rows to preferences: the fields under their usual names, and the prompt that both answers begin with.

A pair is a prompt, the better answer and the worse one, all texts or all lists of messages:

    {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}
    {"chosen": [{"role": "user", ...}, {"role": "assistant", ...}], "rejected": [...]}      the prompt is implicit
    {"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}
    {"prompt": "2 + 2 =", "completion": " 4", "label": true}                                one answer with a label

An implicit prompt is the longest common beginning of both answers: whole messages, or text up to its last white space.
Other fields are ignored, apart from `margin`, by how much the better answer is better (a number), and `system`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from model.errors import UserError
from train.data.conversations.rows import Row, messages_of, read_rows

Messages = list[dict[str, Any]]
Part = str | Messages

PROMPT = ("prompt", "question", "instruction", "input", "query", "history")
BETTER = ("chosen", "preferred_output", "preferred", "response_j")
WORSE = ("rejected", "non_preferred_output", "dispreferred", "response_k")
ANSWER = ("completion", "response", "answer", "output")
LABEL = ("label", "desirable", "is_desirable")
MARGIN, SYSTEM = "margin", "system"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preference:
    """One row: two answers to a prompt, or one answer with a label.

    Attributes:
      prompt: the text or the messages before the answer; empty if there is none.
      answers: the better and the worse answer; or the one.
      label: whether the one answer is desirable; None for a pair.
      margin: by how much the better one is better, or None.
      name: the file and the line.
      where: the same, for errors.
    """

    prompt: Part
    answers: tuple[Part, ...]
    label: bool | None = None
    margin: float | None = None
    name: str = ""
    where: str = ""

    def unpaired(self) -> tuple[Preference, ...]:
        """The answers one by one, each with a label: of a pair the better one is desirable, the other is not."""
        if self.label is not None:
            return (self,)
        return tuple(
            dataclasses.replace(self, answers=(answer,), label=label, margin=None)
            for answer, label in zip(self.answers, (True, False), strict=True)
        )


def read_preferences(path: str) -> Iterator[Preference]:
    """Yields the rows of .jsonl or .json files: one file, a folder, or a pattern, perhaps compressed.

    Raises UserError, with file and line, for a row that is no preference.
    """
    yield from map(preference_of, read_rows(path))


def preference_of(row: Row) -> Preference:
    """One row as a preference. Raises UserError, which begins with the row's place, for one that is none."""
    fields, where = row.fields, row.where
    better, worse, answer = (_field(fields, names, where) for names in (BETTER, WORSE, ANSWER))
    if better is None and worse is None and answer is not None:
        found, names = _labelled(fields, answer, where), [answer]
    elif better is None or worse is None:
        missing = ("chosen", "rejected")[better is not None]
        listed = ", ".join(map(repr, list(fields)[:8])) or "none"
        raise UserError(
            f"{where}: no field {missing!r}; its fields are {listed}. A pair has prompt, chosen and rejected, and an "
            "answer with a label has prompt, completion and label"
        )
    else:
        found, names = _pair(fields, better, worse, where), [better, worse]
    _refuse_empty(found, names, where)
    return dataclasses.replace(_with_system(found, fields, where), name=row.name, where=where)


def _pair(fields: Mapping[str, Any], better: str, worse: str, where: str) -> Preference:
    one, other = (_part(fields[name], f"{where}: {name}") for name in (better, worse))
    if one == other:
        raise UserError(f"{where}: {better!r} and {worse!r} are equal, so that no answer is better; leave the row out")
    prompt = _prompt(fields, where)
    if isinstance(one, str) != isinstance(other, str):
        raise UserError(f"{where}: one of {better!r} and {worse!r} is a text, and one is messages; use one form")
    shared = _common_beginning(one, other)
    if prompt is None or (isinstance(prompt, str) and not isinstance(one, str) and shared):
        # The text of a prompt beside whole conversations is their beginning once more.
        prompt, one, other = shared, one[len(shared) :], other[len(shared) :]
    elif isinstance(prompt, str) != isinstance(one, str):
        raise UserError(f"{where}: one of the prompt and {better!r} is a text, and one is messages; use one form")
    elif isinstance(prompt, list) and prompt == shared[: len(prompt)]:
        one, other = one[len(prompt) :], other[len(prompt) :]
    return Preference(prompt=prompt, answers=(one, other), margin=_margin(fields, where))


def _labelled(fields: Mapping[str, Any], name: str, where: str) -> Preference:
    label = _field(fields, LABEL, where)
    if label is None:
        raise UserError(f"{where}: no field 'label' beside {name!r}; expected true for a good answer, or false")
    value = fields[label]
    if not isinstance(value, bool) and value not in (0, 1):
        raise UserError(f"{where}: {label!r} is {value!r:.40}, expected true or false")
    prompt, answer = _prompt(fields, where), _part(fields[name], f"{where}: {name}")
    if prompt is not None and isinstance(prompt, str) != isinstance(answer, str):
        raise UserError(f"{where}: one of the prompt and {name!r} is a text, and one is messages; use one form")
    empty: Part = "" if isinstance(answer, str) else []
    return Preference(prompt=empty if prompt is None else prompt, answers=(answer,), label=bool(value))


def _field(fields: Mapping[str, Any], names: Sequence[str], where: str) -> str | None:
    """The name under which a row has a field. Raises UserError for two of them."""
    found = [name for name in names if fields.get(name) is not None]
    if len(found) > 1:
        raise UserError(f"{where}: the fields {found[0]!r} and {found[1]!r} mean the same; keep one of them")
    return found[0] if found else None


def _prompt(fields: Mapping[str, Any], where: str) -> Part | None:
    name = _field(fields, PROMPT, where)
    if name is None:
        return None
    value = fields[name]
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    return _part(value, f"{where}: {name}")


def _part(value: Any, where: str) -> Part:
    """A text, or messages; one message is a list of one."""
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise UserError(f"{where}: half of a character (a lone surrogate)")
        return value
    return messages_of([value] if isinstance(value, dict) else value, where)


def _with_system(found: Preference, fields: Mapping[str, Any], where: str) -> Preference:
    """The row with the field `system` as its first message."""
    system = fields.get(SYSTEM)
    if system is None or system == "":
        return found
    if not isinstance(system, str):
        raise UserError(f"{where}: 'system' is {system!r:.40}, expected a text")
    if isinstance(found.prompt, list) and found.prompt and found.prompt[0]["role"] == "system":
        raise UserError(f"{where}: has a field 'system', and its first message is one too; keep one of them")
    first = [{"role": "system", "content": system}]
    prompt, *answers = (
        as_messages(part, role) for part, role in ((found.prompt, "user"), *((a, "assistant") for a in found.answers))
    )
    return dataclasses.replace(found, prompt=first + prompt, answers=tuple(answers))


def as_messages(part: Part, role: str) -> Messages:
    """A text as one message of a role; messages as they are."""
    if isinstance(part, str):
        return [{"role": role, "content": part}] if part else []
    return part


def _margin(fields: Mapping[str, Any], where: str) -> float | None:
    value = fields.get(MARGIN)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UserError(f"{where}: 'margin' is {value!r}, expected by how much chosen is better, a number from 0 on")
    return float(value)


def _common_beginning(one: Any, other: Any) -> Any:
    """The longest common beginning of two answers: whole messages, or text up to its last white space."""
    count = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    if isinstance(one, str):
        while count and not one[count - 1].isspace():
            count -= 1
    return one[:count]


def _refuse_empty(found: Preference, names: Sequence[str], where: str) -> None:
    for answer, name in zip(found.answers, names, strict=True):
        if not (answer.strip() if isinstance(answer, str) else answer):
            why = "" if found.label is not None else " after the prompt"
            raise UserError(f"{where}: {name!r} is empty{why}, so that nothing is learned from it; leave the row out")
