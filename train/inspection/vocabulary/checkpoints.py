"""The same over training steps: a reading of every checkpoint, and its curves."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from model.errors import UserError
from train.conversion.loading import load_model
from train.parallel.mesh import Mesh
from train.report.drawing import Chart, Palette, draw_svg, format_tick, legend_above
from train.run.loading import LoadedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

T = TypeVar("T")

MAX_NAME = 40  # characters
MAX_NAMED = 8  # curves with a name; of more each is thin, and the median is drawn


def at_checkpoints(run: LoadedRun, checkpoints: Sequence[str] | None, read: Callable[[LoadedRun], T]) -> dict[int, T]:
    """What `read` finds in a run at each of its checkpoints, by step, in the order of the steps.

    One checkpoint is in memory beside that of the run at a time, on the same devices.

    Args:
      run: the run, at one checkpoint.
      checkpoints: steps, or latest and best; None for the checkpoint of the run alone.
      read: a function of the run at a checkpoint.

    Raises:
      UserError: for no checkpoint, one that is not there or that is named twice, and a model that has none.
    """
    if checkpoints is None:
        return {run.step: read(run)}
    if not checkpoints:
        raise UserError("--checkpoints is empty; give steps such as 100,200")
    found: dict[int, T] = {}
    for name in checkpoints:
        there = load_model(run.folder, name, mesh=Mesh(**run.mesh.shape))
        if there.step in found:
            raise UserError(f"--checkpoints={','.join(checkpoints)} names step {there.step} twice; name it once")
        found[there.step] = read(there)
    return dict(sorted(found.items()))


def curves(
    title: str,
    caption: str,
    steps: Sequence[int],
    values: Mapping[str, Sequence[float]],
    *,
    unit: str,
    ranks: bool = False,
) -> Chart:
    """Values over steps, a curve for each name; of more than `MAX_NAMED` the curves have no names, but a median.

    Args:
      title, caption: the words of the chart.
      steps: the steps.
      values: for each name the values at these steps.
      unit: the name of the axis.
      ranks: whether the values are ranks, of which 1 is the best and stands on top, on a logarithmic axis; or else
        shares from 0 to 1.
    """
    named = len(values) <= MAX_NAMED
    columns = max(1, min(4, 60 // (8 + max(map(len, map(_short, values))))))
    lines = -(-len(values) // columns) if named else 1

    def draw(axes: "Axes", colors: Palette) -> None:
        from matplotlib.ticker import NullLocator

        inks = (colors.validation, colors.train, colors.muted, colors.ink)
        for number, (name, row) in enumerate(values.items()):
            if named:
                line = ("-", "--")[number // len(inks)]
                axes.plot(
                    steps, row, line, color=inks[number % len(inks)], label=_short(name), linewidth=1.4, marker="."
                )
            else:
                axes.plot(steps, row, color=colors.muted, linewidth=0.6, alpha=0.5)
        if not named:
            median = np.median(np.array(list(values.values())), axis=0)
            axes.plot(steps, median, color=colors.validation, linewidth=1.8, marker=".", label="median")
        if len(values) > 1:
            legend_above(axes, colors, columns)
        if ranks:
            axes.set_yscale("log")
            axes.set_ylim(1.3 * max(max(row) for row in values.values()), 0.8)
            axes.yaxis.set_major_formatter(lambda value, _: format_tick(value))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.set_ylim(-0.03, 1.03)
        axes.set_xticks(_few(steps))
        axes.set_xlabel("step")
        axes.set_ylabel(unit)

    svg = draw_svg(
        f"over-steps-{title}", draw, width=4.2, height=2.5 + 0.15 * lines, label=f"{title} over training steps"
    )
    return Chart(title=title, caption=caption, svg=svg)


def _short(name: str) -> str:
    """A name for a legend; matplotlib leaves out names that begin with _, and reads formulas between dollars."""
    cut = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}\u2026"
    return cut.replace("$", r"\$") if not cut.startswith("_") else f"\u200b{cut}".replace("$", r"\$")


def _few(steps: Sequence[int], most: int = 6) -> list[int]:
    """The steps at which an axis has numbers: the first, the last, and some between."""
    return [steps[int(at)] for at in np.linspace(0, len(steps) - 1, min(most, len(steps))).round()]
