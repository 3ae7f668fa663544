"""The pictures of a sweep: differences with their intervals, curves with bands over seeds, loss against rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from train.lab.curves import Curve
from train.lab.report.analysis import Analysis, Row
from train.report.drawing import Chart, Palette, draw_svg
from train.terminal.formatting import format_fixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = 8  # of variants, in style.css; the base has the colour of the text
_MOST = 12  # variants in a chart of curves
STYLES = ("-", "--", ":", "-.")  # of lines, after all colours are taken
_AXES = {
    "steps": "steps",
    "tokens": "tokens",
    "flops": "model FLOPs of training",
    "seconds": "seconds of training steps, without compilation and evaluation",
}
_TITLES = {"steps": "steps", "tokens": "tokens", "flops": "FLOPs", "seconds": "wall time"}


def difference_chart(analysis: Analysis) -> Chart | None:
    """The difference of every variant to the base with its interval and its seeds; None without any difference."""
    rows = [row for row in analysis.rows if row.comparison is not None and row.comparison.difference is not None]
    if not rows:
        return None
    from matplotlib.ticker import MaxNLocator

    base = analysis.base.values

    def draw(axes: Axes, colors: Palette) -> None:
        axes.axvline(0.0, color=colors.muted, linewidth=1.0)
        for place, row in enumerate(rows):
            found = row.comparison.difference if row.comparison is not None else None
            assert found is not None
            color = placeholder(index_of(analysis, row))
            seeds = [value - base[s] for s, value in row.values.items() if s in base and math.isfinite(value - base[s])]
            axes.plot([found.low, found.high], [place, place], color=color, linewidth=2.2, solid_capstyle="butt")
            axes.plot(seeds, [place - 0.24] * len(seeds), "o", color=color, markersize=3.4, markeredgewidth=0)
            axes.plot([found.mean], [place], "D", color=color, markersize=6, markeredgewidth=0)
        axes.set_yticks(range(len(rows)), [plain(row.name) for row in rows])
        for label in axes.get_yticklabels():
            label.set_color(colors.ink)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(plain(f"{analysis.results.metric} minus that of {analysis.results.base}, same seed"))

    svg = draw_svg(
        "differences",
        draw,
        width=8.6,
        height=0.75 + 0.34 * len(rows),
        label="difference of every variant to the base, with its interval",
    )
    side = "left" if analysis.results.lower_is_better else "right"
    caption = (
        "Diamonds: means; lines: 95% intervals of one comparison, paired over seeds; dots above: seeds. "
        f"Better lies to the {side}."
    )
    return Chart(title="Difference to the base", caption=caption, svg=colored(svg))


def cost_charts(analysis: Analysis) -> list[Chart]:
    """The metric against tokens, FLOPs and wall time, one chart for each that is known."""
    charts = (cost_chart(analysis, cost) for cost in ("tokens", "flops", "seconds"))
    return [chart for chart in charts if chart is not None]


def cost_chart(analysis: Analysis, cost: str) -> Chart | None:
    """The metric against one cost: the mean of every variant over seeds, with a band from its lowest to its highest."""
    known = {row.name: band for row in analysis.rows if (band := _band(row, cost)) is not None}
    drawn = [row for row in analysis.rows if row.name in known and not row.is_base][: _MOST - 1]
    bands = {name: band for name, band in known.items() if name in {row.name for row in drawn} | {analysis.base.name}}
    if not bands:
        return None
    caption, wide = [], cost == "tokens"

    def draw(axes: Axes, colors: Palette) -> None:
        for row in analysis.rows:
            if row.name not in bands:
                continue
            x, low, mean, high = bands[row.name]
            index = index_of(analysis, row)
            color = placeholder(index)
            axes.fill_between(x, low, high, color=color, alpha=0.16, linewidth=0)
            axes.plot(
                x,
                mean,
                STYLES[max(index, 0) // COLORS % len(STYLES)],
                color=color,
                linewidth=1.5,
                label=plain(row.name),
            )
        if cut := _zoom(axes, list(bands.values())):
            caption.append(f"The curves start at up to {format_fixed(cut, 2)}, above the picture.")
        _set_cost_axis(axes)
        axes.set_xlabel(_AXES[cost])
        axes.set_ylabel(plain(analysis.results.metric))
        if wide:  # the others have the same colours
            columns = 1 + len(bands) // 9
            axes.legend(frameon=False, loc="upper right", labelcolor=colors.ink, handlelength=1.6, ncols=columns)

    svg = draw_svg(
        f"cost-{cost}",
        draw,
        width=8.6 if wide else 4.9,
        height=4.0 if wide else 3.3,
        label=f"{analysis.results.metric} of every variant against {_TITLES[cost]}",
    )
    sources = {run.curve.source for row in analysis.rows for run in _drawn(row) if run.curve is not None}
    source = "Smoothed training loss, where a run has few evaluations. " if "training" in sources else ""
    if len(bands) < len(known):
        caption.append(f"Of {len(known)} variants, the base and the best {len(drawn)} are drawn.")
    if pointless := [row.name for row in analysis.rows if row.values and row.name not in known]:
        caption.append(f"No curve of {', '.join(pointless)}: too few evaluations.")
    words = f"Lines: means over seeds; bands: from the lowest to the highest seed. {source}{' '.join(caption)}"
    title = f"{analysis.results.metric.capitalize()} against {_TITLES[cost]}"
    return Chart(title=title, caption=words.strip(), svg=colored(svg))


def rate_chart(analysis: Analysis) -> Chart | None:
    """The metric against the learning rate in the search of every variant; None without a search."""
    searches = {row.name: row.variant.search for row in analysis.rows if row.variant.search.get("rounds")}
    if not searches:
        return None

    def draw(axes: Axes, colors: Palette) -> None:
        every: list[float] = []
        for row in analysis.rows:
            if row.name in searches:
                every += _draw_search(axes, row.name, searches[row.name], placeholder(index_of(analysis, row)))
        axes.set_xscale("log")
        if every:
            top, bottom = np.quantile(every, 0.9), min(every)
            margin = 0.08 * max(top - bottom, 1e-9)
            axes.set_ylim(bottom - margin, top + margin)
        axes.set_xlabel("peak learning rate")
        axes.set_ylabel(plain(analysis.results.metric))
        axes.legend(frameon=False, loc="best", labelcolor=colors.ink, handlelength=1.6)

    svg = draw_svg("rates", draw, width=8.6, height=3.6, label="loss against the learning rate of every variant")
    caption = "Circles: the rate that was taken. Faint lines: earlier, shorter rounds of the search."
    return Chart(
        title=f"{analysis.results.metric.capitalize()} against the learning rate", caption=caption, svg=colored(svg)
    )


def _draw_search(axes: Axes, name: str, search: Mapping[str, Any], color: str) -> list[float]:
    """Draws the rounds of a search, with a circle around the rate that was taken; returns all losses."""
    every: list[float] = []
    for number, one in enumerate(search["rounds"], start=1):
        last = number == len(search["rounds"])
        rates, losses = _points(one["losses"])
        every += losses
        label, alpha, width = (plain(name), 1.0, 1.5) if last else (None, 0.35, 1.0)
        axes.plot(rates, losses, "o-", color=color, markersize=4, label=label, alpha=alpha, linewidth=width)
        for rate, loss in zip(rates, losses, strict=True):
            if last and search.get("rate") is not None and math.isclose(rate, search["rate"], rel_tol=1e-6):
                axes.plot([rate], [loss], "o", markersize=10, mfc="none", mec=color, mew=1.4)
    return every


def series_color(analysis: Analysis, row: Row) -> str:
    """The colour of a variant, as CSS."""
    index = index_of(analysis, row)
    return "var(--ink)" if index < 0 else f"var(--series-{index % COLORS + 1})"


def _points(losses: Mapping[str, float | None]) -> tuple[list[float], list[float]]:
    """Rates and their finite losses, by rising rate."""
    found = sorted((float(rate), loss) for rate, loss in losses.items() if loss is not None and math.isfinite(loss))
    return [rate for rate, _ in found], [loss for _, loss in found]


def _drawn(row: Row) -> list[Any]:
    """The runs whose curves are drawn: those at their end, or all that have one if none is."""
    curved = [run for run in row.variant.runs.values() if run.curve is not None and run.state != "another run"]
    return [run for run in curved if run.final] or curved


def _band(row: Row, cost: str) -> tuple[np.ndarray, ...] | None:
    """(cost, lowest, mean, highest) at the steps that all drawn runs have; None if the cost is not known."""
    curves: list[Curve] = [run.curve for run in _drawn(row)]
    if not curves:
        return None
    steps = curves[0].steps
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.steps)
    at = [np.searchsorted(curve.steps, steps) for curve in curves]
    x = np.mean([curve.cost(cost)[i] for curve, i in zip(curves, at, strict=True)], axis=0)
    values = np.array([curve.values[i] for curve, i in zip(curves, at, strict=True)])
    keep = np.isfinite(x) & np.all(np.isfinite(values), axis=0)
    if keep.sum() < 2:
        return None
    values = values[:, keep]
    return x[keep], values.min(axis=0), values.mean(axis=0), values.max(axis=0)


def _zoom(axes: Axes, bands: Sequence[tuple[np.ndarray, ...]]) -> float | None:
    """Cuts the first quarter of the curves off the picture, which would flatten the rest; returns the highest if so."""
    late = [(low[len(x) // 4 :], high[len(x) // 4 :]) for x, low, _, high in bands]
    bottom, top = min(low.min() for low, _ in late), max(high.max() for _, high in late)
    highest = max(float(high.max()) for _, _, _, high in bands)
    margin = 0.05 * (top - bottom)
    if margin <= 0 or highest <= top + margin:
        return None
    axes.set_ylim(bottom - margin, top + margin)
    return highest


def _set_cost_axis(axes: Axes) -> None:
    """An axis from 0 with powers of ten in its ticks where costs are large."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _format_cost(value, axes.get_xlim()[1])))


def _format_cost(value: float, largest: float) -> str:
    """A tick of a cost on an axis with a largest value: 0, 250, 1.5k, 20M, 3e12; one axis has one notation."""
    if largest >= 1e12 and value > 0:
        digits, exponent = f"{value:.3e}".split("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def index_of(analysis: Analysis, row: Row) -> int:
    """The number of a variant among the variants, in the order of the file; -1 for the base."""
    others = [name for name in analysis.results.variants if name != analysis.results.base]
    return -1 if row.is_base else others.index(row.name)


def placeholder(index: int) -> str:
    """The colour that stands for a variant's until `colored`."""
    return "#020000" if index < 0 else f"#0200{index % COLORS + 1:02x}"


def colored(svg: str) -> str:
    """A picture with the colours of variants that its page has."""
    for index in range(-1, COLORS):
        svg = svg.replace(placeholder(index), "var(--ink)" if index < 0 else f"var(--series-{index + 1})")
    return svg


def plain(text: str) -> str:
    """A text in which matplotlib finds no mathematics."""
    return text.replace("$", r"\$")
