"""A file of generated texts, one JSON object a line in the order of their prompts, that a killed command continues."""

import hashlib
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from model.errors import UserError
from train.files.files import LineFile, cannot_read, parse_json
from train.files.paths import local_path
from train.generation.continuations import Continuation
from train.generation.prompts import JSON_LINES


def output_path(output: str) -> pathlib.Path:
    """The path of a file of texts. Raises UserError for one in a store, and for a name without .jsonl at its end."""
    path = local_path(output, "a file of texts that is written")
    if path.suffix.lower() not in JSON_LINES:
        raise UserError(f"--output={path}: the texts are lines of JSON; give a name that ends in .jsonl")
    return path


class ResultsFile:
    """The texts of prompts, of which `done` were in the file when it was opened. A context manager.

    Every line has the fields prompt, sample (its number among the texts of the same entry), text, tokens, ended_by,
    and settings: a hash of all that decides the texts beside the prompts.
    """

    def __init__(self, path: pathlib.Path, prompts: Sequence[tuple[str, int]], settings: Mapping[str, Any]) -> None:
        """Opens or makes the file, and drops a half-written last line.

        Args:
          path: the file.
          prompts: the prompt and the sample number of each line.
          settings: all that decides the texts beside the prompts; JSON values.

        Raises:
          UserError: when the file cannot be written, or holds lines of other prompts or settings.
        """
        self._prompts = prompts
        self._settings = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        self._file = LineFile(path)
        try:
            self.done = self._check(path)
        except BaseException:
            self._file.close()
            raise

    def _check(self, path: pathlib.Path) -> int:
        """The number of lines, each of which belongs to its prompt and these settings."""
        remedy = "give another --output, or delete it"
        count = 0
        try:
            with path.open("rb") as lines:
                for number, line in enumerate(lines):
                    count = number + 1
                    if count > len(self._prompts):
                        raise UserError(f"{path} has more lines than there are texts to draw; {remedy}")
                    try:
                        found = parse_json(line)
                    except ValueError:
                        found = None
                    prompt, sample = self._prompts[number]
                    if not isinstance(found, dict) or (found.get("prompt"), found.get("sample")) != (prompt, sample):
                        raise UserError(f"{path}, line {count}: is not the text of its prompt; {remedy}")
                    if found.get("settings") != self._settings:
                        raise UserError(f"{path}, line {count}: was drawn with other flags or weights; {remedy}")
        except OSError as error:
            raise cannot_read(path, error) from error
        return count

    def append(self, index: int, result: Continuation) -> None:
        """Writes the text of line `index`, counted from 0."""
        prompt, sample = self._prompts[index]
        line = {"prompt": prompt, "sample": sample, "text": result.text, "tokens": result.tokens}
        line |= {"ended_by": result.ended_by, "settings": self._settings}
        self._file.append(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def __enter__(self) -> "ResultsFile":
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the file when its lines are on the disk."""
        self._file.sync()
        self._file.close()


def numbered(prompts: Sequence[str], samples: int) -> list[tuple[str, int]]:
    """Each prompt with the number of each of its samples."""
    return list(itertools.product(prompts, range(samples)))
