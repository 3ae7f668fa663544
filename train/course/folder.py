"""The folder of a lesson: what was done in it, and whether that was the lesson as it is now."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from model.errors import UserError
from train.files.files import read_json, replace_file

FILE = "lesson.json"
_SCHEMA = {"format": int, "lesson": str, "done?": {...: float}, "numbers?": [float]}
FORMAT = 1


@dataclasses.dataclass
class Record:
    """What lesson.json says.

    Attributes:
      lesson: a hash of the lesson, its experiment and its ablation.
      done: the seconds of every part that is done, by its command.
      numbers: the numbers of the lesson; empty until it is done.
    """

    lesson: str
    done: dict[str, float] = dataclasses.field(default_factory=dict)
    numbers: list[float] = dataclasses.field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The seconds of all parts."""
        return sum(self.done.values())

    def save(self, here: pathlib.Path) -> None:
        """Writes the file."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        replace_file(here / FILE, (json.dumps(content, indent=1) + "\n").encode())


def digest(text: str) -> str:
    """The hash of a lesson: of the text that `train.course.lesson.from_file` returns beside it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(here: pathlib.Path) -> Record | None:
    """The record of a folder; None where no lesson was begun. Raises UserError for a damaged one."""
    if not (here / FILE).exists():
        return None
    content: Mapping[str, Any] = read_json(here / FILE, f"delete {here}, and run the lesson again", _SCHEMA)
    if content["format"] != FORMAT:
        raise UserError(f"{here / FILE} has format {content['format']}, and this version of Cairn reads {FORMAT}")
    return Record(content["lesson"], dict(content.get("done", {})), list(content.get("numbers", [])))


def begin(here: pathlib.Path, lesson: str) -> Record:
    """The record of a lesson, old or new. Raises UserError where the folder holds an earlier form of the lesson."""
    record = read(here)
    if record is None:
        here.mkdir(parents=True, exist_ok=True)
        record = Record(lesson)
    elif record.lesson != lesson:
        raise UserError(
            f"{here} was made by another form of this lesson: its config file, or configs/course/base.py, has changed "
            f"since; delete {here}, or give another --run"
        )
    return record
