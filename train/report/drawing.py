"""How charts are drawn: SVG in the colours of the page around it, with one style for all pages."""

import dataclasses
import html
import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from train.terminal.formatting import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis


@dataclasses.dataclass(frozen=True, kw_only=True)
class Palette:
    """The colours of a chart, named by what they paint."""

    ink: str
    muted: str
    rule: str
    train: str
    validation: str
    bad: str


LIGHT = Palette(ink="#22252a", muted="#6c717a", rule="#e3e2de", train="#2f6690", validation="#c4572c", bad="#b3261e")

# Placeholders for the page's colours: in the SVG each becomes var(--name), so one picture serves light and dark.
_PLACEHOLDERS = Palette(
    ink="#010203", muted="#010204", rule="#010205", train="#010206", validation="#010207", bad="#010208"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture for the page: inline SVG, and the words around it."""

    title: str
    caption: str
    svg: str


@contextmanager
def style(colors: Palette) -> Iterator[None]:
    """Draws with these colours inside the context."""
    import matplotlib

    style: Any = {
        "font.size": 8.5,
        "font.family": "sans-serif",
        "svg.fonttype": "none",
        "axes.edgecolor": colors.rule,
        "axes.labelcolor": colors.muted,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": colors.rule,
        "grid.linewidth": 0.7,
        "text.color": colors.ink,
        "xtick.color": colors.rule,
        "xtick.labelcolor": colors.muted,
        "ytick.color": colors.rule,
        "ytick.labelcolor": colors.muted,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
        "xtick.major.size": 3,
    }
    with matplotlib.rc_context(style):
        yield


def new_figure(width: float, height: float) -> tuple[Any, "Axes"]:
    """A figure of a size in inches, and its axes; draw in it under `style`."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a screen and takes longer to import
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_tick(value)))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_tick(value)))
    return figure, axes


def format_tick(value: float) -> str:
    """The number at a tick: 0.25, 1.5k, 3e-5."""
    if abs(value) >= 1000:
        text = format_count(value)
        return re.sub(r"\.?0+(?=[kMBT]$)", "", text) if "." in text else text
    if value == 0 or abs(value) >= 0.01:
        return f"{value:.4g}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def set_log_ticks(axis: "Axis", at: Iterable[int] | None = None) -> None:
    """Sets the ticks of a logarithmic axis whose limits are known, and no smaller ones between them.

    Args:
      axis: `axes.xaxis` or `axes.yaxis`.
      at: the whole numbers that have a tick; None for 1, 2 and 5 times powers of ten, and more within a decade.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axis.set_minor_locator(NullLocator())
    if at is not None:
        axis.set_major_locator(FixedLocator(sorted(set(at))))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        return
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 9 * low else (1, 1.5, 2, 3, 4, 5, 7)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_tick(value)))


def legend_above(axes: "Axes", colors: Palette, columns: int) -> None:
    """Names the lines of a small chart above it, where the legend covers none of them."""
    axes.legend(
        frameon=False,
        labelcolor=colors.muted,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=columns,
        fontsize=7,
    )


def draw_svg(name: str, draw: "Callable[[Axes, Palette], None]", *, width: float, height: float, label: str) -> str:
    """Draws a chart (sizes in inches) as SVG that scales with the page and takes its colours and its font."""
    import matplotlib

    # The salt decides the ids inside the SVG. It is fixed, so that the same run gives the same page, and different for
    # each chart, because several charts share the page.
    with style(_PLACEHOLDERS), matplotlib.rc_context({"svg.hashsalt": f"cairn-{name}"}):
        figure, axes = new_figure(width, height)
        draw(axes, _PLACEHOLDERS)
        buffer = io.StringIO()
        nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    for field in dataclasses.fields(Palette):
        body = body.replace(getattr(_PLACEHOLDERS, field.name), f"var(--{field.name})")
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # it would style the whole page
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)  # the page names the family
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # names of parts, the same in every chart
    size = f"0 0 {width * 72:g} {height * 72:g}"
    return f'<svg viewBox="{size}" role="img" aria-label="{html.escape(label)}" xmlns:xlink="http://www.w3.org/1999/xlink">{body}'
