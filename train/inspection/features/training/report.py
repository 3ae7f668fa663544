"""The result of a training of autoencoders, for its page: measures, curves, densities and options."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from train.inspection.features.autoencoders.batch_top_k import BatchTopK
from train.inspection.features.training import folder as folders
from train.inspection.features.training.measures import DENSITY_BINS, density_histogram
from train.inspection.features.training.settings import Autoencoder
from train.inspection.result import Charts, Result, Table
from train.report.drawing import Chart, Palette, draw_svg, legend_above
from train.run.metrics import read_metrics, read_status

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEAD = ("", "explained variance", "L0", "loss recovered", "loss", "with y", "with zeros", "dead share")
_MEASURES = ("explained_variance", "l0", "loss_recovered", "loss", "loss_with_output", "loss_with_zeros", "dead_share")
_CAPTION = (
    "Explained variance is 1 - sum |x - y|\u00b2 / sum |x - mean x|\u00b2. L0 is the mean number of features that fire "
    "at a token. Loss recovered is (loss with zeros - loss with y) / (loss with zeros - loss), where y or zeros take "
    "the place of the activation. The dead share is that of features that fired at no token of the evaluation."
)
_CURVES = {
    "loss": "Loss of a step",
    "explained_variance": "Explained variance of a step",
    "l0": "L0 of a step",
    "dead_share": "Dead share",
}
_SHARES = ("dead_share",)  # from 0 up, and drawn from there even where all of them are 0
_POINTS = 400  # of a curve


def result_of(folder: pathlib.Path) -> Result:
    """The result of a training, from the files of its folder."""
    features, source, lines = folders.load_settings(folder), folders.load_source(folder), read_metrics(folder)
    status = read_status(folder) or {"state": "unknown", "step": 0}
    names = [each.name for each in features.autoencoders]
    evaluated = {line["name"]: line for line in lines if line["kind"] == "eval"}
    rows = [[name, *(f"{evaluated[name][key]:.4g}" for key in _MEASURES)] for name in names if name in evaluated]
    train = [line for line in lines if line["kind"] == "train"]
    charts = [chart for key, title in _CURVES.items() if (chart := _curve(train, names, key, title)) is not None]
    arrays: dict[str, np.ndarray] = {}
    if (path := folder / "densities.npz").is_file():
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in names if name in stored}
    charts += [_densities(name, density_M) for name, density_M in arrays.items()]
    options = [[each.name, _place(each), f"{each.width:,}", repr(each.architecture)] for each in features.autoencoders]
    return Result(
        title="Autoencoders of features",
        about=f"{source.text}; {status['state']} at step {status['step']:,} of {features.num_steps:,}, "
        f"{features.batch_tokens:,} tokens each",
        numbers={"measures": {name: {key: evaluated[name][key] for key in _MEASURES} for name in evaluated}},
        arrays=arrays,
        parts=[
            Table(title="Measures", head=_HEAD, rows=rows, caption=_CAPTION),
            Charts(title="Curves and densities", charts=charts),
            Table(title="Options", head=("", "activation", "features", "architecture"), rows=options),
        ],
        notes=_notes(features.autoencoders, status["step"])
        if rows
        else [f"No evaluation yet: the first comes at step {min(features.eval_every, features.num_steps):,}."],
        lines=[" ".join([row[0], *(f"{n} {v}" for n, v in zip(_HEAD[1:], row[1:], strict=True))]) for row in rows],
    )


def _notes(options: Sequence[Autoencoder], step: int) -> list[str]:
    """Which autoencoders have a threshold that is not settled yet."""
    young = {
        each.name: each.architecture.settles_after()
        for each in options
        if isinstance(each.architecture, BatchTopK) and step < each.architecture.settles_after()
    }
    if not young:
        return []
    return [
        f"The threshold of {', '.join(map(repr, young))} is a mean over steps and still holds the first ones until "
        f"step {max(young.values()):,}: until then L0 may be far from k, and explained variance and loss recovered low."
    ]


def _place(option: Autoencoder) -> str:
    layer = "" if option.layer is None else f" of layer {option.layer}"
    return f"{option.tap}{layer}" + (f" to {option.output_tap}" if option.is_transcoder else "")


def _curve(lines: list[dict[str, Any]], names: list[str], key: str, title: str) -> Chart | None:
    found = {
        name: [(line["step"], line[f"{name}/{key}"]) for line in lines if f"{name}/{key}" in line] for name in names
    }
    if not any(found.values()):
        return None

    def draw(axes: "Axes", colors: Palette) -> None:
        inks = (colors.train, colors.validation, colors.muted, colors.ink)
        for number, (name, points) in enumerate(found.items()):
            thin = points[:: max(1, len(points) // _POINTS)]
            if thin:
                style = ("-", "--", ":", "-.")[number // 4 % 4]
                axes.plot(*zip(*thin, strict=True), style, color=inks[number % 4], label=name, linewidth=1.2)
        if len(found) > 1:
            legend_above(axes, colors, 3)
        if key in _SHARES:
            most = max(value for points in found.values() for _, value in points)
            axes.set_ylim(-0.02 * (most or 1.0), 1.08 * most if most > 0 else 1.0)
        axes.set_xlabel("step")

    svg = draw_svg(f"curve-{key}", draw, width=4.2, height=2.6, label=title)
    return Chart(title=title, caption="", svg=svg)


def _densities(name: str, density_M: np.ndarray) -> Chart:
    counts, never = density_histogram(density_M)

    def draw(axes: "Axes", colors: Palette) -> None:
        edges = np.linspace(-8.0, 0.0, DENSITY_BINS + 1)
        axes.bar(edges[:-1], counts, width=8.0 / DENSITY_BINS, align="edge", color=colors.train)
        axes.set_xlabel("log10 of the share of tokens")
        axes.set_ylabel("features")

    svg = draw_svg(f"density-{name}", draw, width=4.2, height=2.6, label=f"densities of {name}")
    caption = f"How often the features fire; {never:,} of {len(density_M):,} at no token of the evaluation."
    return Chart(title=f"Densities of {name}", caption=caption, svg=svg)
