"""How the models of a sweep mix tokens, as pictures and tables; both measured on demand (train/lab/mixing)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from train.lab.mixing.lengths import length_times
from train.lab.mixing.reach import reach_of
from train.lab.report.analysis import Analysis
from train.lab.report.charts import COLORS, STYLES, colored, index_of, placeholder, plain
from train.lab.report.words import NONE
from train.report.drawing import Chart, Palette, draw_svg, set_log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THOUSANDTHS = 1e3  # both are shown in thousandths of what was measured
Points = Mapping[str, Mapping[int, tuple[float, float, float]]]  # (middle, lowest, highest) by variant and place


class Mixing(NamedTuple):
    """One measurement: its picture, where matplotlib is installed, its table and a sentence."""

    title: str
    head: list[str]
    rows: list[list[str]]
    about: str
    points: Points
    axes: tuple[str, str]


def measurements(analysis: Analysis) -> list[Mixing]:
    """Those that were made of a sweep."""
    found = []
    if reach := reach_of(analysis.results):
        distances = sorted({k for each in reach.values() for k in each})
        head = ["gradient norm, 1e-3 nats", *(f"{k} back" for k in distances)]
        about = (
            "The norm of the gradient of the loss of a window's last target by the embedding of the token so many "
            "places before the last input, over windows of the validation split; means over seeds, in the picture from "
            "the lowest to the highest seed."
        )
        rows = _rows(analysis, reach, distances)
        axes = ("places before the last input", head[0])
        found.append(Mixing("How far back they look", head, rows, about, reach, axes))
    if (times := length_times(analysis.results)) is not None and times.seconds:
        lengths = sorted({length for each in times.seconds.values() for length in each})
        head = ["ms a pass", *(f"rows of {length:,}" for length in lengths)]
        about = (
            f"A forward and backward pass over {times.tokens:,} random tokens on {times.device}, in rows of each "
            f"length, the variants in turn: medians of {times.rounds} rounds, in the picture from the least "
            "to the most."
        )
        rows = _rows(analysis, times.seconds, lengths)
        axes = ("tokens in a row", head[0])
        found.append(Mixing("Speed against the length of a row", head, rows, about, times.seconds, axes))
    return found


def chart(analysis: Analysis, measured: Mixing) -> Chart:
    """The picture of a measurement, with logarithmic axes."""

    def draw(axes: Axes, colors: Palette) -> None:
        for row in analysis.rows:
            if (points := measured.points.get(row.name)) is None:
                continue
            places = sorted(points)
            middle, low, high = THOUSANDTHS * np.array([points[place] for place in places]).T
            index = index_of(analysis, row)
            color, style = placeholder(index), STYLES[max(index, 0) // COLORS % len(STYLES)]
            axes.fill_between(places, low, high, color=color, alpha=0.16, linewidth=0)
            axes.plot(
                places, middle, style, marker="o", markersize=3, color=color, linewidth=1.5, label=plain(row.name)
            )
        axes.set_xscale("symlog", base=2, linthresh=1)
        axes.set_yscale("log")
        set_log_ticks(axes.xaxis, (place for points in measured.points.values() for place in points))
        set_log_ticks(axes.yaxis)
        axes.set_xlabel(measured.axes[0])
        axes.set_ylabel(measured.axes[1])
        axes.legend(
            frameon=False, loc="best", labelcolor=colors.ink, handlelength=1.6, ncols=1 + len(measured.rows) // 9
        )

    name = measured.axes[0].partition(" ")[0]
    svg = draw_svg(f"mixing-{name}", draw, width=8.6, height=3.6, label=measured.title)
    return Chart(title=measured.title, caption=measured.about, svg=colored(svg))


def _rows(analysis: Analysis, points: Points, places: list[int]) -> list[list[str]]:
    return [
        [row.name, *(_digits(THOUSANDTHS * points[row.name][k][0]) if k in points[row.name] else NONE for k in places)]
        for row in analysis.rows
        if row.name in points
    ]


def _digits(value: float) -> str:
    """Three digits, or all before the decimal point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
