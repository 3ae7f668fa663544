"""The page of a sweep: fills the template page.html."""

from __future__ import annotations

from typing import Any

from model.options.difference import differences
from train.lab.curves import COSTS
from train.lab.report import charts, mixing, words
from train.lab.report.analysis import Analysis, Row
from train.report.run import HeadlineNumber
from train.report.template import fill, read_source
from train.terminal.formatting import format_counted

_SEEDS = ("training.seed:", "data.seed:")


def render(analysis: Analysis) -> str:
    """The report as one HTML document that refers to nothing outside itself."""
    return fill("train.lab.report", "page.html", **_content(analysis))


def _content(analysis: Analysis) -> dict[str, Any]:
    results = analysis.results
    measured = mixing.measurements(analysis)
    pictures: dict[str, Any] = {
        "differences": None,
        "costs": [],
        "rates": None,
        "mixing": [(one, None) for one in measured],
    }
    missing = None
    try:
        pictures = {
            "differences": charts.difference_chart(analysis),
            "costs": charts.cost_charts(analysis),
            "rates": charts.rate_chart(analysis),
            "mixing": [(one, mixing.chart(analysis, one)) for one in measured],
        }
    except ImportError as error:
        missing = f"No pictures: matplotlib is not installed ({error})."
    rows = [_row(analysis, row) for row in analysis.rows]
    return {
        "own_style": read_source("train.lab.report", "style.css"),
        "results": results,
        "state": analysis.state,
        "about": _about(analysis),
        "notes": analysis.notes,
        "tiles": _tiles(analysis),
        "claim": analysis.claim,
        "judgements": words.claim_words(analysis),
        "rows": rows,
        "show_documents": any(row.documents is not None for row in analysis.rows),
        "show_active": any(row["costs"]["active"] != row["costs"]["parameters"] for row in rows),
        "document_unit": analysis.document_unit,
        "others": words.other_table(analysis) if words.other_metrics(analysis) else None,
        "charts_missing": missing,
        **pictures,
        "speedups": [row for row in rows if row["speedups"]],
        "tuning": words.tuning_rows(analysis),
        "decisions": words.decision_rows(analysis),
        "runs": [_run_row(analysis, row, seed) for row in analysis.rows for seed in results.seeds],
        "method": words.method(analysis),
    }


def _about(analysis: Analysis) -> str:
    results = analysis.results
    variants, seeds = len(results.variants), len(results.seeds)
    parts = [
        f"{variants} variants with {format_counted(seeds, 'seed')} each",
        f"compared by {results.metric}",
        words.equal_words(analysis),
        str(results.content.get("config", "")),
    ]
    return " \u00b7 ".join(part for part in parts if part)


def _tiles(analysis: Analysis) -> list[HeadlineNumber]:
    """The numbers at the head of the page."""
    results, runs = analysis.results, analysis.results.runs()
    done = sum(run.state in ("finished", "diverged") for run in runs)
    tiles = [HeadlineNumber(label="Runs at their end", value=f"{done} of {len(runs)}", note=_others(analysis))]
    if results.alpha is not None:
        found = analysis.words()
        for word in ("better", "worse"):
            names = found.get(word, [])
            tiles.append(HeadlineNumber(label=f"Shown to be {word}", value=str(len(names)), note=", ".join(names)))
    if analysis.noise is not None:
        tiles.append(
            HeadlineNumber(label="Deviation over seeds", value=f"{analysis.noise:.2g}", note="within a variant, pooled")
        )
    if analysis.shown is not None:
        note = f"in 80% of repetitions, by {len(results.seeds)} seeds"
        tiles.append(HeadlineNumber(label="Smallest difference shown", value=f"{analysis.shown:.2g}", note=note))
    return tiles


def _others(analysis: Analysis) -> str:
    states: dict[str, int] = {}
    for run in analysis.results.runs():
        if run.state not in ("finished", "diverged"):
            states[run.state] = states.get(run.state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in states.items())


def _row(analysis: Analysis, row: Row) -> dict[str, Any]:
    """A variant in the tables of the page."""
    places = words.decimals(analysis)
    difference = words.difference_of(row)
    return {
        "name": row.name,
        "is_base": row.is_base,
        "color": charts.series_color(analysis, row),
        "mean": words.mean_cell(row, places),
        "seeds": words.seeds_words(row),
        "missing": bool(row.missing),
        "difference": words.number(None if difference is None else difference.mean, places, True),
        "interval": words.interval_cell(difference, places),
        "p": words.p_cell(row),
        "verdict": words.verdict_cell(analysis, row),
        "verdict_class": words.verdict_class(analysis, row),
        "effect": words.effect_cell(row),
        "documents": words.NONE if row.documents is None else words.number(row.documents.mean, places, True),
        "documents_interval": words.interval_cell(row.documents, places),
        "costs": words.cost_cells(row),
        "speedups": {cost: words.speedup_cell(row.speedups[cost]) for cost in COSTS if cost in row.speedups},
        "no_speedup": _no_speedup(row),
        "settings": list(row.variant.settings),
        "tuned": list(row.variant.tuned),
        "held": list(row.variant.held),
        "note": row.variant.note,
        "changes": _changes(analysis, row),
    }


def _no_speedup(row: Row) -> str:
    """The reason why a variant has no speed-up in any cost; empty if it has one."""
    reasons = {found for found in row.speedups.values() if isinstance(found, str)}
    return reasons.pop() if len(reasons) == 1 and all(isinstance(one, str) for one in row.speedups.values()) else ""


def _changes(analysis: Analysis, row: Row) -> list[str]:
    """The fields in which the resolved config of a variant differs from that of the base."""
    if row.is_base or not row.variant.config:
        return []
    found = differences(analysis.base.variant.config, row.variant.config)
    return [line for line in found if not line.startswith(_SEEDS)]


def _run_row(analysis: Analysis, row: Row, seed: int) -> dict[str, str]:
    run, places = row.variant.runs[seed], words.decimals(analysis)
    total = "" if run.total_steps is None else f" of {run.total_steps:,}"
    return {
        "name": run.folder.name,
        "state": run.state,
        "step": f"{run.step:,}{total}",
        "value": words.number(run.final.get(analysis.results.metric), places),
        "detail": "" if run.state == "finished" else run.detail,
    }
