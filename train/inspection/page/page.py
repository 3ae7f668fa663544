"""Renders a result as one HTML document that refers to nothing outside itself."""

import base64
import importlib.resources
from typing import Any

import numpy as np

from model.errors import UserError
from model.options.words import nearest
from train.evaluation.evaluate import finite_values
from train.inspection.result import Part, Result, Widget
from train.report.template import as_script_data, fill, read_source

PACKAGE = "train.inspection.page"
MAX_PAGE_BYTES = 24 << 20  # a browser opens this within seconds


def render(result: Result) -> str:
    """The page of a result. Raises UserError when it would be too large to open."""
    widgets = [part for part in result.parts if isinstance(part, Widget)]
    names = list(dict.fromkeys(widget.name for widget in widgets))
    data = as_script_data([finite_values(widget.data) for widget in widgets])
    if len(data) > MAX_PAGE_BYTES:
        raise UserError(
            f"the page would have {len(data) / 1e6:.0f} MB, too many to open in a browser; choose fewer --layers, or a "
            "shorter text"
        )
    return fill(
        PACKAGE,
        "page.html",
        look=read_source(PACKAGE, "inspection.css"),
        tools=read_source(PACKAGE, "tools.js"),
        scripts=[read_source(PACKAGE, f"{name}.js") for name in checked(names)],
        title=result.title,
        about=result.about,
        notes=list(result.notes),
        parts=[{"kind": _kind(part), "part": part} for part in result.parts],
        data=data,
        spans=_spans,
    )


def checked(names: list[str]) -> list[str]:
    """The names of widgets. Raises UserError for one without a file."""
    files = (path.name for path in importlib.resources.files(PACKAGE).iterdir())
    known = {file.removesuffix(".js") for file in files if file.endswith(".js")} - {"tools"}
    for name in names:
        if name not in known:
            raise UserError(f"no widget is called {name!r}; {nearest(name, known)}")
    return names


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array for a widget: its shape, and its values as base64 of uint8 or float32, as tools.js unpacks them."""
    values = array if array.dtype == np.uint8 else np.asarray(array, np.float32)
    little = values.astype(values.dtype.newbyteorder("<"))
    return {
        "shape": list(array.shape),
        "dtype": "uint8" if values.dtype == np.uint8 else "float32",
        "base64": base64.b64encode(np.ascontiguousarray(little).tobytes()).decode("ascii"),
    }


def _kind(part: Part) -> str:
    return type(part).__name__.lower()


def _spans(text: str) -> list[tuple[bool, str]]:
    """The pieces of a text, each with whether it is code, which stands between backticks."""
    return [(number % 2 == 1, piece) for number, piece in enumerate(text.split("`"))]
