"""The instrument `superposition`: trains toy models and draws the phases of Elhage et al. 2022; it looks at no run."""

from typing import TYPE_CHECKING

import numpy as np

from train.inspection.page.page import packed
from train.inspection.result import Charts, Result, Table, Widget
from train.inspection.superposition.toy import Toy, Trained, interference, represented, train
from train.report.drawing import Chart, Palette, draw_svg
from train.run.loading import LoadedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DENSITIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # 1 - S
HALF = 0.5  # a feature with |W_i|^2 above it counts as represented


def inspect(
    run: LoadedRun | None = None,
    *,
    features: int = 20,
    dimensions: int = 5,
    steps: int = 5000,
    grid: int = 15,
    seed: int = 0,
) -> Result:
    """Trains models of rising sparsity, and a grid of models of two features in one dimension.

    Args:
      run: not read.
      features: n; feature i has the importance 0.7^i.
      dimensions: m.
      steps: of the training.
      grid: sparsities and importances along each side of the phase diagram.
      seed: of initial values and inputs.
    """
    toy = Toy(features=features, dimensions=dimensions, steps=steps, seed=seed)
    importance = np.tile(0.7 ** np.arange(features), (len(DENSITIES), 1))
    ladder = train(toy, 1 - np.array(DENSITIES), importance)
    densities, relative, phases = phase_diagram(grid, steps, seed)
    rows = [_row(density, w) for density, w in zip(DENSITIES, ladder.w_Kmn, strict=True)]
    return Result(
        title="Superposition",
        about=f"{features} features in {dimensions} dimensions, importance 0.7^i, {steps:,} steps; best of "
        f"{toy.restarts} starts",
        numbers={
            "densities": DENSITIES,
            "represented": [int(np.sum(represented(w) > HALF)) for w in ladder.w_Kmn],
            "loss": ladder.loss_K,
        },
        arrays={"weights": ladder.w_Kmn, "biases": ladder.b_Kn, "phases": phases},
        parts=[
            Table(title="Features represented", head=_HEAD, rows=rows, caption=_CAPTION),
            Charts(charts=[_bars(ladder), _diagram(densities, relative, phases)], title="Phases"),
            _grams(ladder, features),
        ],
        lines=[
            f"density {row[0]}: {row[1]} of {features} features represented in {dimensions} dimensions" for row in rows
        ],
    )


_HEAD = ("1 - S", "represented", "sum of |W_i|\u00b2", "in superposition", "dimensions a feature")
_CAPTION = (
    "S is the sparsity: a feature is 0 in a share S of the inputs. "
    "A feature counts as represented if |W_i|\u00b2 > 0.5, and as in superposition if others share more than a tenth "
    "of its direction. Dense features get a dimension each, the most important first; sparse ones share dimensions."
)


def _row(density: float, w_mn: np.ndarray) -> list[str]:
    size, shared = represented(w_mn), interference(w_mn)
    count, total = int(np.sum(size > HALF)), float(size.sum())
    mixed = int(np.sum((size > HALF) & (shared > 0.1)))
    return [f"{density:g}", str(count), f"{total:.2f}", str(mixed), f"{w_mn.shape[0] / max(total, 1e-9):.2f}"]


def phase_diagram(grid: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two features in one dimension: densities (G,), importances of the second (G,), and the phases (G, G, 2).

    `[importance, density, 0]` is how far the second feature is represented, `[..., 1]` how much it shares the dimension
    with the first.
    """
    densities, relative = np.logspace(0, -2, grid), np.logspace(-1, 1, grid)
    pairs = [(density, importance) for importance in relative for density in densities]
    toy = Toy(features=2, dimensions=1, steps=steps, batch=256, restarts=8, seed=seed)
    importance = np.array([[1.0, i] for _, i in pairs])
    found = train(toy, np.array([1 - density for density, _ in pairs]), importance)
    values = np.stack([represented(found.w_Kmn)[:, 1], interference(found.w_Kmn)[:, 1]], axis=-1)
    return densities, relative, values.reshape(grid, grid, 2)


def _bars(ladder: Trained) -> Chart:
    """|W_i|^2 of all features at every sparsity, features in superposition in another colour."""

    def draw(axes: "Axes", colors: Palette) -> None:
        for row, w_mn in enumerate(ladder.w_Kmn):
            size, shared = represented(w_mn), interference(w_mn)
            for i, (height, share) in enumerate(zip(size, shared, strict=True)):
                color = colors.validation if share > 0.1 else colors.train
                axes.bar(i, 0.8 * min(float(height), 1.2), bottom=len(DENSITIES) - 1 - row, width=0.85, color=color)
        axes.set_yticks(range(len(DENSITIES)), [f"{density:g}" for density in reversed(DENSITIES)])
        axes.set_xlabel("feature, most important first")
        axes.set_ylabel("1 - S")

    svg = draw_svg("bars", draw, width=4.6, height=4.0, label="how far each feature is represented, by sparsity")
    caption = "Heights: |W_i|\u00b2. Blue: a dimension of its own; orange: in superposition."
    return Chart(title="Features represented, against sparsity", caption=caption, svg=svg)


def _diagram(densities: np.ndarray, relative: np.ndarray, phases: np.ndarray) -> Chart:
    def draw(axes: "Axes", colors: Palette) -> None:
        from matplotlib.patches import Rectangle

        for row in range(len(relative)):
            for column in range(len(densities)):
                size, shared = phases[row, column]
                if size <= HALF:
                    color, alpha = colors.muted, 0.15
                else:
                    color, alpha = (colors.validation if shared > 0.1 else colors.train), 0.85
                box = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, alpha=alpha, linewidth=0)
                axes.add_patch(box)
        last = len(densities) - 1
        axes.set_xlim(-0.5, last + 0.5)
        axes.set_ylim(-0.5, last + 0.5)
        axes.set_xticks([0, last / 2, last], ["1", "0.1", "0.01"])
        axes.set_yticks([0, last / 2, last], ["0.1", "1", "10"])
        axes.grid(visible=False)
        axes.set_xlabel("1 - S")
        axes.set_ylabel("importance of the second feature")

    svg = draw_svg("diagram", draw, width=4.2, height=4.0, label="phases of two features in one dimension")
    caption = "Two features, one dimension. The second: grey not represented, blue alone, orange in superposition."
    return Chart(title="Phase diagram", caption=caption, svg=svg)


def _grams(ladder: Trained, features: int) -> Widget:
    grams = np.swapaxes(ladder.w_Kmn, 1, 2) @ ladder.w_Kmn
    return Widget(
        name="heatmap",
        title="W\u1d40W",
        data={
            "rows": [str(i) for i in range(features)],
            "columns": [str(i) for i in range(features)],
            "values": packed(grams.astype(np.float32)),
            "views": [f"1 - S = {density:g}" for density in DENSITIES],
            "low": -1,
            "high": 1,
            "rowName": "feature",
            "columnName": "feature",
        },
        caption="Row i, column j: the product of the directions of two features. Off the diagonal it is interference.",
    )
