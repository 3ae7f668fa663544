"""The result of an instrument: numbers as JSON, arrays as .npz, and the parts of a page.

The files of a folder: index.html (the page, which refers to nothing outside itself), result.json, arrays.npz.
"""

import dataclasses
import io
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from model.errors import UserError
from train.files.files import replace_file
from train.report.drawing import Chart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a page: texts; `head` names the columns, all but the first of which are aligned to the right."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Charts:
    """Pictures of a page, side by side, or below one another where they are `wide`."""

    charts: Sequence[Chart]
    title: str = ""
    wide: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Widget:
    """An interactive part of a page, drawn by train/inspection/page/NAME.js from its data.

    Attributes:
      name: the name of the widget: attention, heatmap, tokens, scatter.
      title: its heading.
      data: JSON values; arrays of numbers are packed by `packed`.
      caption: words below it.
    """

    name: str
    title: str
    data: Mapping[str, Any]
    caption: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words:
    """Prose of a page; a piece between backticks is set as code.

    Attributes:
      title: its heading.
      paragraphs: its paragraphs.
      commands: lines to paste, below them.
    """

    title: str = ""
    paragraphs: Sequence[str] = ()
    commands: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Link:
    """A card that leads to another page.

    Attributes:
      title: the words of the link.
      address: the page, relative to this one.
      text: a line about it.
      note: a short remark, such as a state.
    """

    title: str
    address: str
    text: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Links:
    """Cards that lead to other pages."""

    links: Sequence[Link]
    title: str = ""


Part = Table | Charts | Widget | Words | Links


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The result of an instrument.

    Attributes:
      title: the heading of the page.
      about: a line on the model and the text.
      numbers: JSON values, for result.json.
      arrays: for arrays.npz, by name.
      parts: the parts of the page, in order.
      notes: sentences about what was left out, which the command prints too.
      lines: lines for the terminal.
      savers: further files, by name: functions that write one to a path.
    """

    title: str
    about: str
    numbers: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    parts: Sequence[Part]
    notes: Sequence[str] = ()
    lines: Sequence[str] = ()
    savers: Mapping[str, Callable[[pathlib.Path], None]] = dataclasses.field(default_factory=dict)

    def write(self, folder: pathlib.Path) -> pathlib.Path:
        """Writes the files into a folder, which is made if need be; returns the path of the page.

        Raises UserError when they cannot be written.
        """
        from train.evaluation.evaluate import finite_values
        from train.inspection.page.page import render

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made: {error.strerror}; give another --output") from error
        values = {"title": self.title, "about": self.about, "notes": list(self.notes), **self.numbers}
        arrays = io.BytesIO()
        named: dict[str, Any] = {name: np.asarray(array) for name, array in self.arrays.items()}
        np.savez_compressed(arrays, **named)
        replace_file(folder / "result.json", (json.dumps(finite_values(values), indent=1) + "\n").encode())
        replace_file(folder / "arrays.npz", arrays.getvalue())
        for name, save in self.savers.items():
            save(folder / name)
        page = folder / "index.html"
        replace_file(page, render(self).encode("utf-8", errors="backslashreplace"))
        return page
