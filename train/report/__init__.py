"""The report of a run: a page that opens anywhere, the picture of its curve, and the table printed at the end."""

import os
import pathlib

from train.files import replace_file
from train.report.run import comparison, facts, load, parsed_samples, state

__all__ = ["summary", "write_curve_png", "write_report"]


def write_report(run_folder: str | os.PathLike[str]) -> pathlib.Path:
    """Writes RUN/report.html from what the run folder holds, finished or not; returns its path.

    The page is one file that needs no network. What is missing is said in its place. Raises UserError when there is
    no such folder or it cannot be written.
    """
    from train.report.page import render

    run = load(pathlib.Path(run_folder))
    path = run.folder / "report.html"
    replace_file(path, render(run).encode("utf-8", errors="replace"))
    return path


def write_curve_png(run_folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Writes the loss curves of a run as a PNG on white. Raises UserError when there is no such folder."""
    from train.report.charts import write_loss_png

    write_loss_png(load(pathlib.Path(run_folder)), path)


def summary(run_folder: str | os.PathLike[str]) -> str:
    """The headline numbers of a run as a short aligned table of plain text, without a final line break."""
    run = load(pathlib.Path(run_folder))
    word, details = state(run)
    rows = [(str(run.folder), word, details)]
    rows += [(fact.label.lower(), fact.value, fact.note) for fact in facts(run)]
    others = [f"{name} {value:.3f}" for name, value, own in comparison(run) if not own]
    rows = [(a, b, f"{note}; {', '.join(others)}") if others and a == "bits per byte" else (a, b, note) for a, b, note in rows]
    if parsed := parsed_samples(run):
        rows.append(("samples that parse", parsed, ""))
    left, middle = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{a:<{left}}  {b:>{middle}}  {note}".rstrip() for a, b, note in rows)
