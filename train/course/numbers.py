"""Where the numbers of a lesson are read: the evaluations of its runs, and the results of its instruments."""

import dataclasses
import math
import pathlib
from typing import Any, Literal, Protocol

from model.errors import UserError
from train.files.files import read_json
from train.report.run import load


class Source(Protocol):
    """The interface of sources."""

    def read(self, here: pathlib.Path) -> float:
        """The number, from the folder of the lesson. Raises UserError when it is not there."""


@dataclasses.dataclass(frozen=True)
class Final:
    """The last value of a metric of a run, or its mean over several.

    Attributes:
      runs: the run folder in that of the lesson; with a star, such as `sweep/none-seed*`, all that fit.
      metric: a number of the evaluations of the validation split, or NAME/NUMBER of a named evaluation.
    """

    runs: str
    metric: str = "loss"

    def read(self, here: pathlib.Path) -> float:
        """See `Source`."""
        folders = sorted(here.glob(self.runs))
        if not folders:
            raise UserError(f"{here / self.runs}: there is no such run; run the lesson again")
        values = [self._last(folder) for folder in folders]
        return math.fsum(values) / len(values)

    def _last(self, folder: pathlib.Path) -> float:
        run = load(folder)
        name, _, field = self.metric.rpartition("/")
        lines = [line for line in (*run.evaluations, *run.named_evaluations) if line.get("name", "") == name]
        value = lines[-1].get(field) if lines else None
        if not isinstance(value, int | float):
            raise UserError(f"{folder} has no evaluation with a number {self.metric!r}; run the lesson again")
        return float(value)


@dataclasses.dataclass(frozen=True)
class Less:
    """A number less another one."""

    one: Source
    other: Source

    def read(self, here: pathlib.Path) -> float:
        """See `Source`."""
        return self.one.read(here) - self.other.read(here)


@dataclasses.dataclass(frozen=True)
class Found:
    """A number in the result.json of an instrument.

    Attributes:
      look: the folder of the instrument in that of the lesson.
      path: the keys and indices to it, with slashes; a star stands for all entries of a list.
      take: which of several is taken.
    """

    look: str
    path: str
    take: Literal["max", "min"] = "max"

    def read(self, here: pathlib.Path) -> float:
        """See `Source`."""
        file = here / self.look / "result.json"
        values: list[Any] = [read_json(file, "run the lesson again")]
        for key in self.path.split("/"):
            values = [inner for value in values for inner in _entries(value, key)]
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        if not numbers:
            raise UserError(f"{file} has no number at {self.path!r}; run the lesson again")
        return max(numbers) if self.take == "max" else min(numbers)


def _entries(value: Any, key: str) -> list[Any]:
    """The entries of a value that a key of a path names; none where there is no such entry."""
    if key == "*":
        return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
    if isinstance(value, list) and key.lstrip("-").isdigit():
        return value[int(key) :][:1]
    return [value[key]] if isinstance(value, dict) and key in value else []
