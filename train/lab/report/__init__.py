"""The report of a sweep: a self-contained page, and tables for other programs and for a paper."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from train.files.files import replace_file

if TYPE_CHECKING:
    from train.lab.report.analysis import Analysis, Row

__all__ = ["summary", "write_sweep_report"]


def write_sweep_report(
    folder: str | os.PathLike[str], larger: Sequence[str | os.PathLike[str]] = ()
) -> tuple[pathlib.Path, Analysis]:
    """Writes report.html, results.csv, results.md and results.tex of a sweep, finished or not.

    Runs that are missing or failed are named in each of the files.

    Args:
      folder: the folder of the sweep.
      larger: the folders of sweeps of the same variants on larger models, whose order is compared.

    Returns:
      The path of the page, and the analysis.

    Raises:
      UserError: for a folder that is no sweep's, for sweeps that cannot be compared, and for files that cannot be
        written.
    """
    from train.lab.report.analysis import analyse
    from train.lab.report.page import render
    from train.lab.report.tables import latex, markdown, runs_csv
    from train.lab.results import read_results

    analysis = analyse(read_results(folder), [read_results(other) for other in larger])
    texts = {
        "results.csv": runs_csv(analysis),
        "results.md": markdown(analysis),
        "results.tex": latex(analysis),
        "report.html": render(analysis),
    }
    for name, text in texts.items():
        replace_file(analysis.results.folder / name, text.encode("utf-8", errors="backslashreplace"))
    return analysis.results.folder / "report.html", analysis


def summary(analysis: Analysis) -> str:
    """The table of variants as aligned plain text, with the notes and the claim; without a final line break."""
    from train.lab.report import words
    from train.terminal.formatting import escape_unprintable

    places = words.decimals(analysis)
    rows = [("", analysis.results.metric, "difference", "verdict")]
    for row in analysis.rows:
        difference = words.difference_of(row)
        change = words.number(None if difference is None else difference.mean, places, True)
        interval = "" if difference is None else f" {words.interval_cell(difference, places)}"
        verdict = words.verdict_cell(analysis, row)
        verdict += _p_words(row) if words.verdict_class(analysis, row) else ""
        rows.append((row.name, words.mean_cell(row, places), change + interval, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
    lines += [
        f"{row.name} over documents: {words.number(row.documents.mean, places, True)} "
        f"{words.interval_cell(row.documents, places)} {analysis.document_unit}"
        for row in analysis.rows
        if row.documents is not None
    ]
    lines += [f"claim, {name}: {text}" for name, _, text in words.claim_words(analysis)]
    lines += [
        f"order in {row['larger']}: {row['share']} of {row['pairs']} the same; reversed: {row['reversed']}"
        for row in words.decision_rows(analysis)
    ]
    return "\n".join(map(escape_unprintable, [*analysis.notes, *lines]))


def _p_words(row: Row) -> str:
    from train.lab.statistics.verdicts import equals_p

    found = None if row.comparison is None else row.comparison.adjusted_p
    return "" if found is None else f", p {equals_p(found)}"
