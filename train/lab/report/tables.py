"""The results of a sweep as tables for other programs and for a paper: CSV, Markdown, LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re

from train.lab.report import mixing, words
from train.lab.report.analysis import LEVEL, Analysis, Row
from train.lab.results import RunResult

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}
_SYMBOLS = {"\u2212": "$-$", "\u2013": "--", "\u00b1": r"$\pm$", "\u00d7": r"$\times$"}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~])")


def runs_csv(analysis: Analysis) -> str:
    """One line for every declared run, with what is missing left empty."""
    metric, base = analysis.results.metric, analysis.base.values
    others = words.other_metrics(analysis)
    sizes = ("parameters", "active_parameters")
    measured = ("seconds", "tokens_per_second", "peak_bytes")
    head = (
        "variant",
        "seed",
        "state",
        "step",
        "total_steps",
        metric,
        "difference",
        "tokens",
        "flops",
        *measured,
        *sizes,
        *others,
    )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow((*head, "detail"))
    for row in analysis.rows:
        for seed, run in row.variant.runs.items():
            value = run.final.get(metric)
            difference = value - base[seed] if value is not None and seed in base else None
            curve = run.curve
            costs = (None, None) if curve is None else (curve.tokens[-1], curve.flops[-1])
            own = row.variant.sizes
            cells = (value, difference, *costs, *(getattr(run, name) for name in measured))
            counts = [None if own is None else getattr(own, name) for name in sizes]
            further = [_raw(run.final.get(name)) for name in others]
            about = (row.name, seed, run.state, run.step, run.total_steps)
            writer.writerow((*about, *map(_raw, cells), *counts, *further, _detail(run)))
    return buffer.getvalue()


def _detail(run: RunResult) -> str:
    return "" if run.state == "finished" else " ".join(run.detail.split())


def _raw(value: float | None) -> str:
    """A number with all of its digits; empty for None; nan, inf."""
    if value is None:
        return ""
    value = float(value)
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else repr(value)


def summary_table(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the table of variants, as plain text, without columns of which nothing is known."""
    places = words.decimals(analysis)
    rows = [_cells(analysis, row, places) for row in analysis.rows]
    names = [name for name in rows[0] if name == "variant" or any(row[name] != words.NONE for row in rows)]
    if all(row["active"] == row["parameters"] for row in rows):
        names = [name for name in names if name != "active"]
    return names, [[row[name] for name in names] for row in rows]


def _cells(analysis: Analysis, row: Row, places: int) -> dict[str, str]:
    difference = words.difference_of(row)
    cells = {
        "variant": row.name,
        analysis.results.metric: words.mean_cell(row, places),
        "seeds": words.seeds_cell(row),
        "difference": words.number(None if difference is None else difference.mean, places, True),
        f"{LEVEL:.0%} interval": words.interval_cell(difference, places),
        "p": words.p_cell(row),
        "verdict": words.verdict_cell(analysis, row),
        "effect": words.effect_cell(row),
        "documents": words.interval_cell(row.documents, places),
    }
    return cells | words.cost_cells(row)


def markdown(analysis: Analysis) -> str:
    """The table of variants, the notes, the claim and the method, as Markdown."""
    head, rows = summary_table(analysis)
    align = ["---", *["---" if name == "verdict" else "---:" for name in head[1:]]]
    lines = [f"# {_md(analysis.results.name)}", "", *[f"- {_md(note)}" for note in analysis.notes]]
    lines += [""] * bool(analysis.notes)
    lines += [
        _line([_md(name) for name in head]),
        _line(align),
        *[_line([_md(cell) for cell in row]) for row in rows],
        "",
    ]
    if words.other_metrics(analysis):
        head, rows = words.other_table(analysis)
        align = ["---", *["---:"] * (len(head) - 1)]
        lines += [_line(list(map(_md, head))), _line(align), *[_line(list(map(_md, row))) for row in rows], ""]
    for one in mixing.measurements(analysis):
        align = ["---", *["---:"] * (len(one.head) - 1)]
        lines += [f"{_md(one.title)}. {_md(one.about)}", "", _line(list(map(_md, one.head))), _line(align)]
        lines += [*[_line(list(map(_md, row))) for row in one.rows], ""]
    if analysis.claim is not None:
        lines.append(f"Claim, fixed before the runs: {_md(str(analysis.claim))}")
        lines += [f"- {_md(name)}: {_md(text)}" for name, _, text in words.claim_words(analysis)] + [""]
    return "\n".join([*lines, *[_md(line) for line in words.method(analysis)], ""])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _md(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def latex(analysis: Analysis) -> str:
    """The tables for a paper: they need the package booktabs. Variants that are shown to be better are bold."""
    head, rows = summary_table(analysis)
    kept = [i for i, name in enumerate(head) if name not in ("verdict", "effect")]
    texts = [[_tex(cells[i]) for i in kept] for cells in rows]
    for row, cells in zip(analysis.rows, texts, strict=True):
        if words.verdict_class(analysis, row) == "better":
            cells[0] = rf"\textbf{{{cells[0]}}}"
    lines = [
        f"% {_tex_comment(analysis.results.name)}, written by Cairn; \\usepackage{{booktabs}}",
        *[f"% {_tex_comment(line)}" for line in (*analysis.notes, *words.method(analysis))],
        "% A variant in bold is shown to be better than the base.",
        *_tabular([head[i] for i in kept], texts),
    ]
    further = [("the other evaluations", *words.other_table(analysis))] if words.other_metrics(analysis) else []
    further += [(f"{one.title}. {one.about}", one.head, one.rows) for one in mixing.measurements(analysis)]
    for about, head, rows in further:
        lines += [f"% {_tex_comment(about)}", *_tabular(head, [list(map(_tex, row)) for row in rows])]
    return "\n".join([*lines, ""])


def _tabular(head: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table, whose cells are LaTeX already; the head is not."""
    titles = {"p": "$p$", "difference": r"$\Delta$"}
    return [
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        " & ".join(titles.get(name, _tex(name)) for name in head) + r" \\",
        r"\midrule",
        *[" & ".join(row) + r" \\" for row in rows],
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _tex(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in text)
    for symbol, command in _SYMBOLS.items():
        escaped = escaped.replace(symbol, command)
    escaped = re.sub(r"^(\d\.\d+)e(\d+)$", r"$\1\\times 10^{\2}$", escaped)
    return escaped.replace("[", "{[}")  # after a line break, LaTeX would read it as an option


def _tex_comment(text: str) -> str:
    return " ".join(text.split())
