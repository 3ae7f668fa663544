"""The page of a coordinate check: one file that needs no network, in the style of the report of a run."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from train.lab.coordinates.check import FLAT, Curve, Sweep
from train.report.drawing import Chart, Palette, draw_svg, set_log_ticks
from train.report.template import fill

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def render(sweeps: Sequence[Sweep], about: str) -> str:
    """The page as HTML. `about` is a line under the title."""
    by_axis = [(axis, list(some)) for axis, some in itertools.groupby(sweeps, key=lambda sweep: sweep.axis)]
    return fill(
        "train.lab.coordinates",
        "page.html",
        about=about,
        axes=[(axis, some, _charts(some)) for axis, some in by_axis],
        flat=FLAT,
        slope=_slope,
    )


def _slope(curve: Curve) -> str:
    return f"{curve.slope:+.2f}" + ("" if math.isnan(curve.spread) else f" ± {curve.spread:.2f}")


def _charts(sweeps: Sequence[Sweep]) -> list[Chart]:
    """A chart for each kind of activation, with a line for each parametrisation."""
    return [_chart(sweeps, curve.kind, curve.when) for curve in sweeps[0].curves]


def _chart(sweeps: Sequence[Sweep], kind: str, when: str) -> Chart:
    found = [(s, curve) for s in sweeps for curve in s.curves if (curve.kind, curve.when) == (kind, when)]

    def draw(axes: "Axes", colors: Palette) -> None:
        for (sweep, curve), color in zip(found, (colors.train, colors.validation), strict=False):
            axes.plot(sweep.sizes, curve.sizes, "o-", color=color, label=sweep.parametrization, linewidth=1.4)
        _log_log(axes, [size for sweep, _ in found for size in sweep.sizes])
        axes.set_xlabel(sweeps[0].axis)
        axes.legend(frameon=False, labelcolor=colors.muted, handlelength=1.4)

    svg = draw_svg(f"{sweeps[0].axis}-{kind}-{when}", draw, width=4.2, height=2.4, label=f"{kind} against size")
    slopes = ", ".join(f"{sweep.parametrization} {_slope(curve)}" for sweep, curve in found)
    title = f"{kind}, " + ("RMS after the steps" if when == "after" else "RMS of the change")
    return Chart(title=title, caption=f"Slopes: {slopes}." + ("" if found[0][1].judged else " Not judged."), svg=svg)


def _log_log(axes: "Axes", sizes: Sequence[int]) -> None:
    """Makes both axes logarithmic, with a tick at every size, and the values over at least a decade."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 10 * low:
        middle = math.sqrt(low * high)
        axes.set_ylim(middle / 10**0.5, middle * 10**0.5)
    set_log_ticks(axes.xaxis, sizes)
    set_log_ticks(axes.yaxis)
