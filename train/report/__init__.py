"""The report of a run: a self-contained page, a picture of the loss curves, and the table printed at the end."""

import os
import pathlib

from model.errors import UserError
from train.files.files import replace_file
from train.files.paths import local_path
from train.report.optional_parts import noise_headline, text_headlines
from train.report.run import baseline_comparison, headline_numbers, load, parsed_samples, run_state
from train.terminal.formatting import escape_unprintable, format_fixed

__all__ = ["summary", "write_curve_png", "write_report"]


def write_report(run_folder: str | os.PathLike[str]) -> pathlib.Path:
    """Writes RUN/report.html from what the run folder holds, finished or not; returns its path.

    The page is one file that needs no network. Where something is missing, the page says so. Raises UserError when
    there is no such folder or it cannot be written.
    """
    from train.report.page import render

    run = load(run_folder)
    path = run.folder / "report.html"
    replace_file(path, render(run).encode("utf-8", errors="backslashreplace"))
    return path


def write_curve_png(run_folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Writes the loss curves of a run as a PNG on white.

    Raises UserError when there is no such run, the name does not end in .png, or the file cannot be written.
    """
    from train.report.charts import loss_png

    target = local_path(path, "a picture")
    if target.suffix.lower() != ".png":
        raise UserError(f"the picture of the curve is a PNG: expected a name that ends in .png, got {str(path)!r}")
    replace_file(target, loss_png(load(run_folder)))


def summary(run_folder: str | os.PathLike[str]) -> str:
    """The headline numbers of a run as a short aligned table of plain text, without a final line break."""
    run = load(run_folder)
    word, details = run_state(run)
    headlines = [*headline_numbers(run), *text_headlines(run), *noise_headline(run)]
    rows = [(number.label.lower(), number.value, number.note) for number in headlines]
    if others := ", ".join(
        f"{name} {format_fixed(value, 3)}" for name, value, own in baseline_comparison(run) if not own
    ):
        rows = [(a, b, f"{note}; {others}" if a == "bits per byte" else note) for a, b, note in rows]
    if parsed := parsed_samples(run):
        rows.append(("samples that parse", *parsed))
    left, middle = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    lines = [f"  {a:<{left}}  {b:>{middle}}  {note}".rstrip() for a, b, note in rows]
    return "\n".join(map(escape_unprintable, [f"{run.folder}: {word}, {details}", *lines]))
