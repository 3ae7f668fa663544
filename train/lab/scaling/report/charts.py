"""The pictures of a scaling law, as SVG in the colours of the page."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from train.lab.scaling.analysis import Analysis
from train.lab.scaling.points import group_by_budget
from train.lab.scaling.surface import Surface
from train.report.drawing import Chart, Palette, draw_svg, format_tick

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELLED = 10  # budgets, beyond which only some are labelled


def isoflop_chart(analysis: Analysis) -> Chart:
    """Loss against N for each budget: the runs, the fitted surface along the budget, and the parabola of approach 2."""

    def draw(axes: "Axes", colors: Palette) -> None:
        law = analysis.law
        points = law.points
        groups = [runs for runs in group_by_budget(points.flops) if len(runs) >= 3]
        every = -(-len(groups) // _LABELLED)
        for i, runs in enumerate(groups):
            alpha = 0.35 + 0.65 * i / max(len(groups) - 1, 1)
            flops, sizes = float(np.exp(np.log(points.flops[runs]).mean())), points.parameters[runs]
            grid = np.geomspace(sizes.min() / 1.15, sizes.max() * 1.15, 100)
            along = law.surface.loss(grid, law.compute.tokens(flops, grid))
            axes.plot(grid, along, color=colors.train, alpha=alpha, linewidth=1.4)
            axes.plot(sizes, points.loss[runs], "o", color=colors.train, alpha=alpha, markersize=3.6, markeredgewidth=0)
            if i % every == 0:
                axes.annotate(
                    f"{flops:.2g}", (grid[-1], along[-1]), (3, 0), textcoords="offset points", fontsize=7.5, va="center"
                )
        for parabola in analysis.isoflop.parabolas:
            sizes = points.parameters[parabola.runs]
            grid = np.geomspace(sizes.min(), sizes.max(), 60)
            axes.plot(grid, parabola.loss(grid), color=colors.muted, linewidth=0.8, linestyle=":")
            if parabola.is_inside(points):
                best = parabola.best_parameters
                axes.plot(best, parabola.loss(np.array([best])), "|", color=colors.muted, markersize=9)
        budgets = np.geomspace(points.flops.min(), points.flops.max(), 60)
        best, tokens = law.surface.optimum(budgets, law.compute)
        axes.plot(best, law.surface.loss(best, tokens), color=colors.validation, linewidth=1.4)
        axes.set_ylim(*_padded(points.loss[np.concatenate(groups)] if groups else points.loss))
        _log_axis(axes, "parameters N")
        axes.set_ylabel("loss, nats per token")

    return Chart(
        title="Loss along budgets",
        caption="One curve a budget, labelled with its FLOPs: dots are runs, lines the fitted law, dotted lines and "
        "ticks the parabolas of approach 2 and their vertices; the orange line joins the optima of the law.",
        svg=draw_svg("isoflop", draw, width=8.6, height=4.2, label="loss against parameters for each budget"),
    )


def residual_chart(analysis: Analysis) -> Chart:
    """Measured over fitted loss, against the operations of the runs."""

    def draw(axes: "Axes", colors: Palette) -> None:
        law = analysis.law
        percent = 100 * np.expm1(law.residuals)
        axes.axhline(0, color=colors.muted, linewidth=0.8)
        axes.plot(law.points.flops, percent, "o", color=colors.train, markersize=3.4, alpha=0.75, markeredgewidth=0)
        for one in analysis.held_out:
            if one.measured is not None:
                error = 100 * (one.measured / one.predicted.value - 1)
                axes.plot(one.flops, error, "o", color=colors.validation, markersize=4.5, markeredgewidth=0)
        _log_axis(axes, "training FLOPs C")
        axes.set_ylabel("measured over fitted, %")

    return Chart(
        title="Residuals",
        caption="Each run's loss over that of the law." + (" Orange: held out." if _measured(analysis) else ""),
        svg=draw_svg("residuals", draw, width=4.2, height=2.9, label="residuals of the runs"),
    )


def loss_chart(analysis: Analysis) -> Chart:
    """The loss at the optimum against C, with its band; the runs, and those held out with their predictions."""

    def draw(axes: "Axes", colors: Palette) -> None:
        law = analysis.law
        flops = _budgets(analysis)
        _band(
            analysis, axes, colors, flops, lambda surface: surface.loss(*surface.optimum(flops[:, None], law.compute))
        )
        points = law.points
        axes.plot(points.flops, points.loss, "o", color=colors.train, markersize=3, alpha=0.6, markeredgewidth=0)
        low, high = _padded(points.loss)
        for one in analysis.held_out:
            interval = one.predicted
            axes.plot([one.flops] * 2, [interval.low, interval.high], color=colors.ink, linewidth=1)
            axes.plot(one.flops, interval.value, "_", color=colors.ink, markersize=8)
            low = min(low, interval.low - 0.03 * (high - low))
            if one.measured is not None:
                axes.plot(one.flops, one.measured, "o", color=colors.validation, markersize=4.5, markeredgewidth=0)
        at_end = law.optimum(flops[-1], analysis.level)[2]
        axes.set_ylim(min(low, at_end.value - 0.03 * (high - low)), high)
        _log_axis(axes, "training FLOPs C")
        axes.set_ylabel("loss, nats per token")

    words = " Black: predictions with their intervals before training." if analysis.held_out else ""
    words += " Orange dots: measured." if _measured(analysis) else ""
    return Chart(
        title="Loss at the optimum",
        caption=f"The law's least loss for C, with its {analysis.level:.0%} band; dots are runs.{words}",
        svg=draw_svg("optimum-loss", draw, width=4.2, height=2.9, label="loss against training FLOPs"),
    )


def optimum_chart(analysis: Analysis, which: int) -> Chart:
    """N* (which=0) or D* (which=1) against C, with its band; approaches 1 and 2 beside it."""
    name, title = (("parameters N*", "Optimal parameters"), ("tokens D*", "Optimal tokens"))[which]

    def draw(axes: "Axes", colors: Palette) -> None:
        law, points = analysis.law, analysis.law.points
        flops = _budgets(analysis)
        _band(analysis, axes, colors, flops, lambda surface: surface.optimum(flops[:, None], law.compute)[which])
        for (label, *laws), style in zip(
            analysis.approaches(), ("-.", ":")[-len(list(analysis.approaches())) :], strict=True
        ):
            axes.plot(flops, laws[which](flops), style, color=colors.muted, linewidth=1.2, label=f"approach {label}")
        used = [one for one in analysis.isoflop.parabolas if one.is_inside(points)]
        vertices = np.array([one.best_parameters for one in used])
        budgets = np.array([one.flops for one in used])
        shown = vertices if which == 0 else law.compute.tokens(budgets, vertices)
        axes.plot(budgets, shown, "|", color=colors.muted, markersize=8)
        for one in analysis.held_out:
            axes.plot(one.flops, (one.parameters, one.tokens)[which], "o", color=colors.validation, markersize=4)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: format_tick(value))
        axes.yaxis.set_minor_formatter(lambda value, _: "")
        _log_axis(axes, "training FLOPs C")
        axes.set_ylabel(name)
        axes.legend(frameon=False, loc="upper left", labelcolor=colors.muted, handlelength=1.8, fontsize=7.5)

    return Chart(
        title=title,
        caption=f"With the {analysis.level:.0%} band of the resamples; ticks are vertices of parabolas.",
        svg=draw_svg(f"optimum-{which}", draw, width=4.2, height=2.9, label=f"{title} against training FLOPs"),
    )


def all_charts(analysis: Analysis) -> list[Chart]:
    """The small charts of the page."""
    return [optimum_chart(analysis, 0), optimum_chart(analysis, 1), loss_chart(analysis), residual_chart(analysis)]


def _band(
    analysis: Analysis, axes: "Axes", colors: Palette, flops: np.ndarray, of: Callable[[Surface], np.ndarray]
) -> None:
    """Draws a quantity of the fit over C, and the quantiles of the resamples."""
    tail = (1 - analysis.level) / 2
    with np.errstate(all="ignore"):
        drawn = np.where(np.isfinite(values := of(analysis.law.draws)), values, np.nan)
    low, high = np.nanquantile(drawn, [tail, 1 - tail], axis=1)
    axes.fill_between(flops, low, high, color=colors.train, alpha=0.18, linewidth=0)
    axes.plot(flops, of(analysis.law.surface)[:, 0], color=colors.train, linewidth=1.5, label="approach 3")


def _budgets(analysis: Analysis) -> np.ndarray:
    """C from the smallest run to the largest run, optimum or held-out run."""
    flops = analysis.law.points.flops
    last = max([flops.max(), *analysis.at, *(one.flops for one in analysis.held_out)])
    grid: np.ndarray = np.geomspace(flops.min(), last * 1.05, 80)
    return grid


def _padded(values: np.ndarray) -> tuple[float, float]:
    margin = 0.05 * float(np.ptp(values)) or 0.01
    return float(values.min()) - margin, float(values.max()) + margin


def _log_axis(axes: "Axes", label: str) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: format_tick(value))
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.set_xlabel(label)


def _measured(analysis: Analysis) -> bool:
    return any(one.measured is not None for one in analysis.held_out)
