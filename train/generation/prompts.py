"""Prompts and stop strings from a command line or a file: checked UTF-8 texts, each with its origin."""

import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from model.errors import UserError
from train.data.text.file_types import HEAD, not_text

JSON_LINES = (".jsonl", ".ndjson")


class Prompt(NamedTuple):
    """The beginning of a text, and its origin: "prompt 2", or "prompts.txt, line 7"."""

    text: str
    where: str


def check_text(text: str, where: str, fix: str = "write it as UTF-8") -> None:
    """Raises UserError for a text that cannot be encoded as UTF-8: Python keeps invalid bytes as lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{where} is not UTF-8 at character {error.start}; {fix}") from None


def from_flags(texts: Sequence[str], flag: str) -> list[Prompt]:
    """The texts of a repeatable flag. Raises UserError for a text that is not UTF-8."""
    fix = "use a terminal with UTF-8"
    if flag == "prompt":
        fix += ", or put the text into a UTF-8 file and give that as --prompts_file"
    for number, text in enumerate(texts, start=1):
        check_text(text, f"--{flag} number {number}", fix)
    return [Prompt(text, f"{flag} {number}") for number, text in enumerate(texts, start=1)]


def read_prompts(path: pathlib.Path) -> list[Prompt]:
    """The prompts in a file: its lines that are not blank, or the "prompt" of each line of a .jsonl file.

    A line ends with a line feed, or with a carriage return and a line feed; a byte order mark at the beginning is not
    part of the first prompt. Raises UserError for a file that is missing, is not UTF-8, or has no prompt, and for a
    .jsonl line of another form.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        raise UserError(
            f"--prompts_file={path}: expected a prompt on each line, or, in a file whose name ends in .jsonl, lines "
            'such as {"prompt": "..."}; a .json file is neither'
        )
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except OSError as error:
        raise UserError(f"--prompts_file={path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        before = error.object[: error.start].count(b"\n")
        if (other := not_text(error.object[:HEAD])) is not None:
            raise UserError(f"--prompts_file={path} is not UTF-8 text, but {other}") from None
        raise UserError(
            f"--prompts_file={path} is not UTF-8 at byte {error.start}, line {before + 1}; convert it: "
            "iconv -f OLD -t UTF-8"
        ) from None
    prompts = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            prompts.append(Prompt(_of_json(line, where) if suffix in JSON_LINES else line, where))
    if not prompts:
        raise UserError(f"--prompts_file={path} holds no prompt; expected one on each line")
    return prompts


def _of_json(line: str, where: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError, RecursionError):
        prompt = None
    if not isinstance(prompt, str):
        raise UserError(f'{where}: expected {{"prompt": "..."}}, got {line[:60]!r}')
    check_text(prompt, f"{where}: the prompt", "half of a pair such as \\ud83d\\ude00 stands alone; write both")
    return prompt
