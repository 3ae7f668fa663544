"""The measurements that a scaling law is fitted to: parameters, tokens and final loss of each run."""

import csv
import dataclasses
import io
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np

from model.errors import UserError

COLUMNS = ("parameters", "tokens", "loss")
FLOPS_PER_PARAMETER_AND_TOKEN = 6.0  # of training (Kaplan et al. 2020, section 2.1)


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """One entry a run, float64 [n].

    Attributes:
      parameters, tokens: N and D of the run.
      loss: its final loss in nats per token.
      flops: C, the operations of its training; 6 N D where these are not known.
    """

    parameters: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    flops: np.ndarray

    @classmethod
    def of(cls, parameters: Any, tokens: Any, loss: Any, flops: Any = None) -> Self:
        """The points of sequences of numbers."""
        n, d, loss = (np.asarray(x, np.float64) for x in (parameters, tokens, loss))
        flops = FLOPS_PER_PARAMETER_AND_TOKEN * n * d if flops is None else np.asarray(flops, np.float64)
        return cls(n, d, loss, flops)

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, chosen: Any) -> Self:
        """The points at some indices, or where a mask is true."""
        return type(self)(self.parameters[chosen], self.tokens[chosen], self.loss[chosen], self.flops[chosen])

    def with_loss(self, loss: np.ndarray) -> Self:
        """The same runs with other losses."""
        return dataclasses.replace(self, loss=loss)


def read_points(path: pathlib.Path) -> Points:
    """Reads a CSV file with the columns parameters, tokens, loss and, if it has it, flops; it may have others too.

    Raises UserError for a missing file or column, and for a number that is missing or not above 0, with its line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); give a CSV file with the columns {_named()}") from error
    reader = csv.DictReader(io.StringIO(text))
    found = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = found
    if missing := [name for name in COLUMNS if name not in found]:
        raise UserError(
            f"{path} has no column {missing[0]!r}; expected the columns {_named()}, and flops if known; its columns "
            f"are {', '.join(found) or 'none'}"
        )
    names = [*COLUMNS, *(["flops"] if "flops" in found else [])]
    rows = [[_number(path, reader.line_num, name, row[name]) for name in names] for row in reader]
    if not rows:
        raise UserError(f"{path} has no rows; expected one for each run")
    columns = np.array(rows, np.float64).T
    return Points.of(*columns)


def write_points(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes runs as a CSV file that `read_points` reads; the first row names the columns."""
    listed = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(listed[0]) if listed else [*COLUMNS, "flops"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)


def group_by_budget(flops: np.ndarray, tolerance: float = 0.15) -> list[np.ndarray]:
    """The indices of runs with about the same C, by rising C; `tolerance` is the width of a group in log C."""
    groups: list[list[int]] = []
    for index in np.argsort(flops, kind="stable"):
        if groups and math.log(flops[index] / flops[groups[-1][0]]) <= tolerance:
            groups[-1].append(int(index))
        else:
            groups.append([int(index)])
    return [np.array(group) for group in groups]


def _number(path: pathlib.Path, line: int, name: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"{path}, line {line}: {name} is {text!r}; expected a number above 0, or leave the row out")
    return value


def _named() -> str:
    return ", ".join(COLUMNS)
