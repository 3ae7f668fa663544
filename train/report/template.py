"""Fills the template of a page: everything is escaped, except values marked "safe", which are our style and our SVG."""

import datetime
import importlib.resources
import json
import pathlib
from typing import Any

_CONTROL = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"} | {0x7F: "\u2421"}


def fill(package: str, template: str, **content: Any) -> str:
    """The HTML of a template of a package; it gets the style of all pages as `style`, and the time as `written`."""
    import jinja2

    # Control characters, which HTML may not hold, are shown as symbols: a sample may hold any text.
    environment = jinja2.Environment(
        autoescape=True, finalize=_escape_control, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    style = read_source("train.report", "style.css")
    written = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return environment.from_string(read_source(package, template)).render(style=style, written=written, **content)


def read_source(package: str, name: str) -> str:
    """A file beside the code of a package."""
    return importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8")


def as_script_data(values: Any) -> str:
    """JSON that may stand inside a script element: no text in it can end the element or begin a comment."""
    text = json.dumps(values, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _escape_control(value: Any) -> Any:
    value = str(value) if isinstance(value, pathlib.PurePath) else value
    return value.translate(_CONTROL) if type(value) is str else value  # not the Markup of our style and our SVG
