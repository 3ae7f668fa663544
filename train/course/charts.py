"""A picture of a sweep at its end: a row for each variant, a dot for each of its seeds."""

import math
from typing import TYPE_CHECKING

from train.lab.report.analysis import Analysis
from train.report.drawing import Chart, Palette, draw_svg
from train.terminal.formatting import format_fixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def final_chart(analysis: Analysis) -> Chart | None:
    """The metric of every variant at the last step; None where no run has one."""
    rows = [row for row in analysis.rows if any(map(math.isfinite, row.values.values()))]
    if not rows:
        return None
    metric = analysis.results.metric

    def draw(axes: "Axes", colors: Palette) -> None:
        for place, row in enumerate(rows):
            values = [value for value in row.values.values() if math.isfinite(value)]
            mean = math.fsum(values) / len(values)
            color = colors.ink if row.is_base else colors.train
            axes.plot(values, [place] * len(values), "o", color=color, alpha=0.5, markersize=4.5, markeredgewidth=0)
            axes.plot([mean], [place], "D", color=color, markersize=6.5, markeredgewidth=0)
            axes.annotate(
                format_fixed(mean, 3),
                (mean, place),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                color=colors.ink,
            )
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        for label in axes.get_yticklabels():
            label.set_color(colors.ink)
        axes.set_ylim(len(rows) - 0.5, -0.8)
        axes.margins(x=0.12)
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(metric)

    height = 0.75 + 0.42 * len(rows)
    svg = draw_svg("final", draw, width=8.6, height=height, label=f"{metric} of every variant at the end")
    side = "left" if analysis.results.lower_is_better else "right"
    return Chart(title="At the end", caption=f"Better lies to the {side}; dots are seeds.", svg=svg)
