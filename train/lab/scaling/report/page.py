"""The page report.html of a scaling law: one file that needs no network, in the style of the report of a run."""

from typing import Any

import numpy as np

from train.lab.scaling.analysis import Analysis
from train.lab.scaling.report import charts
from train.lab.scaling.surface import NAMES
from train.lab.scaling.words import BIAS, between, counts_between, rounded
from train.report.template import fill
from train.terminal.formatting import format_count

_HOW = {"points": "resampled runs", "noise": "normal noise drawn around the fit"}


def render(analysis: Analysis, title: str, about: str) -> str:
    """The page as HTML. `about` is a line under the title."""
    return fill("train.lab.scaling.report", "page.html", title=title, about=about, **_content(analysis))


def _content(analysis: Analysis) -> dict[str, Any]:
    law = analysis.law
    return {
        "tiles": _tiles(analysis),
        "warnings": list(analysis.warnings()),
        "wide": charts.isoflop_chart(analysis),
        "small": charts.all_charts(analysis),
        "numbers": [_number_row(analysis, name) for name in (*NAMES, "a", "b")],
        "level": f"{analysis.level:.0%}",
        "how": f"{len(law.noise):,} fits of {_HOW[law.resampling]}",
        "compute": f"C = {law.compute.coefficient:.4g} N^{law.compute.exponent:.4f} D",
        "optima": _optima(analysis),
        "bias": BIAS,
        "biases": [
            (f"{flops:.3g}", f"{ratio:.3f}")
            for flops, ratio in zip(analysis.at, analysis.biases, strict=True)
            if ratio is not None
        ],
        "held_out": analysis.held_out,
        "runs": _runs(analysis),
    }


def _tiles(analysis: Analysis) -> list[tuple[str, str, str]]:
    """Headline numbers: label, value, note."""
    law, flops = analysis.law, analysis.at[-1]
    n, d, loss = law.optimum(flops, analysis.level)
    tiles = [
        (f"Optimal parameters at {flops:.3g}", format_count(n.value), counts_between(n)),
        (
            f"Optimal tokens at {flops:.3g}",
            format_count(d.value),
            f"{counts_between(d)}, {d.value / n.value:.3g} a parameter",
        ),
        (f"Loss there, {analysis.level:.0%}", f"{loss.value:.4f}", between(loss, ".4f")),
        ("Residuals, RMS", f"{np.sqrt(np.mean(law.residuals**2)):.2%}", f"{len(law.points)} runs"),
    ]
    for one in analysis.held_out:
        value = "waiting" if one.measured is None else f"{one.measured / one.predicted.value - 1:+.2%}"
        inside = "" if one.measured is None else f", {'inside' if one.predicted.holds(one.measured) else 'outside'}"
        tiles.append(("Held out, over prediction", value, f"{between(one.predicted, '.4f')}{inside}"))
    return tiles


def _number_row(analysis: Analysis, name: str) -> tuple[str, ...]:
    interval, projection = analysis.law.interval(name, analysis.level), analysis.projection.as_dict()
    other = rounded(projection[name]) if name in projection else "\u2013"
    return name, rounded(interval.value), between(interval), rounded(analysis.law.standard_error(name), 3), other


def _optima(analysis: Analysis) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for flops in analysis.at:
        n, d, loss = analysis.law.optimum(flops, analysis.level)
        numbers = format_count(n.value), counts_between(n), format_count(d.value), counts_between(d)
        rows.append(
            (
                f"{flops:.3g}",
                "3, the law",
                *numbers,
                f"{d.value / n.value:.3g}",
                f"{loss.value:.4f} {between(loss, '.4f')}",
            )
        )
        for name, of_n, of_d in analysis.approaches():
            best, tokens = float(of_n(flops)), float(of_d(flops))
            rows.append(("", name, format_count(best), "", format_count(tokens), "", f"{tokens / best:.3g}", ""))
    return rows


def _runs(analysis: Analysis) -> list[tuple[str, ...]]:
    law = analysis.law
    points, fitted = law.points, law.surface.loss(law.points.parameters, law.points.tokens)
    return [
        (
            analysis.names[i],
            format_count(points.parameters[i]),
            format_count(points.tokens[i]),
            f"{points.tokens[i] / points.parameters[i]:.3g}",
            f"{points.flops[i]:.3g}",
            f"{points.loss[i]:.4f}",
            f"{fitted[i]:.4f}",
            f"{np.expm1(law.residuals[i]):+.2%}",
        )
        for i in np.lexsort((points.parameters, points.flops))
    ]
