"""The page of a training of autoencoders: measures, curves, densities and options."""

import json
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from model.options.json import to_json
from train.files.files import replace_file
from train.inspection.features.training import folder as folders
from train.inspection.features.training.measures import DENSITY_BINS, density_histogram
from train.report.drawing import Chart, Palette, draw_svg
from train.report.template import fill
from train.run.metrics import read_metrics, read_status

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEAD = ("", "explained variance", "L0", "loss recovered", "loss", "with y", "with zeros", "dead share")
_MEASURES = ("explained_variance", "l0", "loss_recovered", "loss", "loss_with_output", "loss_with_zeros", "dead_share")
_CURVES = {
    "loss": "Loss of a step",
    "explained_variance": "Explained variance of a step",
    "l0": "L0 of a step",
    "dead_share": "Dead share",
}
_POINTS = 400  # of a curve


def write_page(folder: pathlib.Path) -> None:
    """Writes page.html of a folder of autoencoders from the files in it."""
    replace_file(folder / "page.html", render(folder).encode())


def render(folder: pathlib.Path) -> str:
    """The page as one document that refers to nothing outside itself."""
    features, source, lines = folders.load_settings(folder), folders.load_source(folder), read_metrics(folder)
    status = read_status(folder) or {"state": "unknown", "step": 0}
    names = [each.name for each in features.autoencoders]
    evaluated = {line["name"]: line for line in lines if line["kind"] == "eval"}
    rows = [[name, *(f"{evaluated[name][key]:.4g}" for key in _MEASURES)] for name in names if name in evaluated]
    train = [line for line in lines if line["kind"] == "train"]
    charts = [chart for key, title in _CURVES.items() if (chart := _curve(train, names, key, title)) is not None]
    if (path := folder / "densities.npz").is_file():
        with np.load(path) as densities:
            charts += [_densities(name, densities[name]) for name in names if name in densities]
    about = f"{source.text}; step {status['step']:,} of {features.num_steps:,}, {features.batch_tokens:,} tokens each"
    return fill(
        "train.inspection.features.training",
        "page.html",
        title=pathlib.PurePath(source.run).name,
        state=status["state"],
        about=about,
        head=_HEAD,
        rows=rows,
        charts=charts,
        options=json.dumps(to_json(features), indent=1),
    )


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
            axes.legend(frameon=False, labelcolor=colors.muted)
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
