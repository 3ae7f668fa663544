"""A comparison of two runs as one HTML page that needs no network, in the style of the report of a run."""

from typing import TYPE_CHECKING, Any

import numpy as np

from train.lab.comparison import table
from train.lab.comparison.comparison import Comparison
from train.lab.comparison.curves import AXES, Curve, CurvePair
from train.report.drawing import Chart, Palette, draw_svg
from train.report.run import RunData, run_state
from train.report.template import fill
from train.terminal.formatting import format_fixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SMALL = (4.2, 2.6)  # inches
_LARGE = (8.6, 3.4)
_POINTS = 2000  # of a curve


def render(found: Comparison) -> str:
    """The page as one document that refers to nothing outside itself."""
    return fill("train.lab.comparison", "page.html", **_content(found))


def _content(found: Comparison) -> dict[str, Any]:
    curves, charts_missing = [], None
    for pair in found.curves:
        try:
            drawn = charts(pair)
        except ImportError as error:
            drawn, charts_missing = [], f"No curves: matplotlib is not installed ({error})."
        curves.append(
            {
                "name": pair.name[0].upper() + pair.name[1:],
                "rows": table.curve_rows(pair),
                "reached": table.reached_sentence(pair),
                "charts": drawn,
                "smoothed": any(not np.array_equal(c.values, c.smoothed) for c in (pair.a, pair.b)),
            }
        )
    sections = [
        {"title": title, "rows": table.change_rows(found, section)} for section, title in table.SECTIONS.items()
    ]
    paired = found.paired
    return {
        "a": _run("A", found.a),
        "b": _run("B", found.b),
        "notes": found.notes,
        "tiles": _tiles(found),
        "paired": None if paired is None else table.paired_rows(found),
        "paired_text": "" if paired is None else f"{paired.text}: {table.paired_sentence(found)}",
        "paired_notes": [] if paired is None else paired.notes,
        "recorded": table.recorded_rows(found),
        "parting": "They part " + "; ".join(table.divergence_sentences(found.divergence)) + "."
        if found.divergence.common_steps
        else "They have no logged step in common.",
        "divergence": table.divergence_rows(found.divergence),
        "curves": curves,
        "charts_missing": charts_missing,
        "sections": sections,
    }


def _run(key: str, run: RunData) -> dict[str, str]:
    return {"key": key, "name": run.name, "folder": str(run.folder), "about": ", ".join(run_state(run))}


def _tiles(found: Comparison) -> list[dict[str, str]]:
    """The differences of the paired evaluation, the parting step, and the number of settings that differ."""
    tiles = []
    for measure in found.paired.measures if found.paired is not None else ():
        words = measure.measure.replace("_", " ")
        note = f"{format_fixed(measure.a)} and {format_fixed(measure.b)}"
        if (difference := measure.difference) is not None:
            note += f"; {difference.low:+.4f} to {difference.high:+.4f}"
        tiles.append({"label": f"{words}, B - A", "value": f"{measure.b - measure.a:+.4f}", "note": note})
    parted = found.divergence.first
    part = f"{parted[0].step:,}" if parted else "none"
    tiles.append(
        {"label": "First step that differs", "value": part, "note": f"of {found.divergence.common_steps:,} common"}
    )
    count = sum(change.section == "config" for change in found.changes)
    tiles.append({"label": "Config fields that differ", "value": f"{count:,}", "note": ""})
    return tiles


def charts(pair: CurvePair) -> list[Chart]:
    """The curves against steps, tokens and seconds; an axis that is not known of both is left out."""
    drawn = []
    for axis in AXES:
        if not all(np.isfinite(curve.axis(axis)).any() for curve in (pair.a, pair.b)):
            continue
        title = f"{pair.name[0].upper()}{pair.name[1:]} against {axis}"
        width, height = _LARGE if axis == "steps" else _SMALL

        def draw(axes: "Axes", colors: Palette, axis: str = axis) -> None:
            for name, curve, color in (("A", pair.a, colors.train), ("B", pair.b, colors.validation)):
                _draw_curve(axes, curve, axis, name, color)
            axes.set_xlabel(axis)
            axes.set_xlim(left=0)
            axes.legend(frameon=False, loc="upper right", labelcolor=colors.muted, handlelength=1.4)

        svg = draw_svg(f"{pair.name}-{axis}", draw, width=width, height=height, label=title)
        drawn.append(Chart(title=title, caption="", svg=svg))
    return drawn


def _draw_curve(axes: "Axes", curve: Curve, axis: str, name: str, color: str) -> None:
    """One run: every value faintly where there are many, and the smoothed curve."""
    known = np.isfinite(curve.axis(axis))
    x, values, smoothed = curve.axis(axis)[known], curve.values[known], curve.smoothed[known]
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), _POINTS)).round().astype(int))
    if len(x) > 20:
        axes.plot(x[keep], values[keep], color=color, alpha=0.25, linewidth=0.7)
    marker = "o" if len(x) <= 20 else None
    axes.plot(x[keep], smoothed[keep], color=color, linewidth=1.5, label=name, marker=marker, markersize=3.4)
