"""The page of a model's probes: for each a table of its numbers and baselines, and its pictures."""

import inspect
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from train.evaluation.probes.interface import Curve, Grid
from train.evaluation.probing.results import ProbeResults
from train.evaluation.probing.table import baseline_rows, number_rows
from train.files.files import replace_file
from train.report.drawing import Chart, Palette, draw_svg
from train.report.template import fill

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_page(results: ProbeResults, path: pathlib.Path) -> None:
    """Writes the page as one file that refers to nothing outside itself."""
    replace_file(path, render(results).encode())


def render(results: ProbeResults) -> str:
    """The page as HTML."""
    parts = [
        {
            "name": name,
            "about": (inspect.getdoc(type(probe)) or "").partition("\n")[0].replace("`", ""),
            "option": repr(probe),
            "rows": [*number_rows(found), *((words, value, "") for words, value in baseline_rows(found))],
            "charts": [draw(picture, f"{name}-{i}") for i, picture in enumerate(found.pictures)],
        }
        for name, probe, found in results.entries
    ]
    return fill("train.evaluation.probing", "page.html", results=results, parts=parts)


def draw(picture: Curve | Grid, name: str) -> Chart:
    """A picture of a probe as a chart; `name` is unique on the page."""

    def drawn(axes: "Axes", colors: Palette) -> None:
        if isinstance(picture, Grid):
            _draw_grid(axes, colors, picture)
        else:
            _draw_curve(axes, colors, picture)

    svg = draw_svg(name, drawn, width=4.2, height=2.6, label=picture.title)
    return Chart(title=picture.title, caption="", svg=svg)


def _draw_curve(axes: "Axes", colors: Palette, curve: Curve) -> None:
    """The first line is the model's; the others are baselines."""
    inks = (colors.train, colors.validation, colors.muted, colors.ink)
    styles = ("-", "--", ":", "-.")
    for number, (name, values) in enumerate(curve.lines.items()):
        points = [(x, y) for x, y in zip(curve.x, values, strict=True) if y is not None]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        marker = "o" if number == 0 and len(points) <= 12 else None
        line = axes.plot(x, y, styles[number % 4], color=inks[number % 4], label=name, marker=marker, markersize=3.4)
        line[0].set_linewidth(1.5 if number == 0 else 1.1)
    if len(curve.lines) > 1:
        axes.legend(frameon=False, labelcolor=colors.muted, handlelength=1.8)
    drawn = [y for values in curve.lines.values() for y in values if y is not None]
    if min(drawn, default=0.0) < 0.5 * max(drawn, default=0.0):
        axes.set_ylim(bottom=0)
    if curve.y_label.startswith("share"):
        axes.set_ylim(0, 1.03)
    axes.set_xlabel(curve.x_label)
    axes.set_ylabel(curve.y_label)


def _draw_grid(axes: "Axes", colors: Palette, grid: Grid) -> None:
    """Cells as squares whose opacity is the value, with the value in them."""
    from matplotlib.patches import Rectangle

    rows, columns = len(grid.y), len(grid.x)
    for row, values in enumerate(grid.values):
        for column, value in enumerate(values):
            shade = 0.0 if value is None else float(np.clip(value, 0, 1))
            axes.add_patch(
                Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, facecolor=colors.train, alpha=0.06 + 0.64 * shade)
            )
            text = "" if value is None else f"{value:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=colors.ink, fontsize=8.5)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xticks(range(columns), list(grid.x))
    axes.set_yticks(range(rows), list(grid.y))
    axes.grid(False)
    axes.set_xlabel(grid.x_label)
    axes.set_ylabel(grid.y_label)
