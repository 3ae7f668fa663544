"""The curves of a run as pictures: SVG in the colours of the page around it, or a PNG in light colours."""

import io
from typing import TYPE_CHECKING

import numpy as np

from train.report.drawing import LIGHT, Chart, Palette, draw_svg, new_figure, style
from train.report.optional_parts import (
    accuracies,
    head_curves,
    layer_curves,
    log_normaliser,
    noise_scales,
    text_losses,
    update_ratios,
)
from train.report.run import RunData, Series, smooth
from train.terminal.formatting import format_fixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 500  # a curve of more points than this is drawn as a band between its extremes


def loss_chart(run: RunData) -> Chart | None:
    """Training loss, raw and smoothed, with the validation points; None when nothing was logged."""
    if not len(run.metric("loss")) and not len(run.metric("loss", "eval")):
        return None
    caption = []

    def draw(axes: "Axes", colors: Palette) -> None:
        caption.append(_draw_losses(axes, colors, run))

    svg = draw_svg("loss", draw, width=8.6, height=3.7, label="training and validation loss over the steps")
    return Chart(title="Loss", caption=caption[0], svg=svg)


def small_charts(run: RunData) -> list[Chart]:
    """Learning rate, gradient norm, throughput, and every other metric; skipped steps and padding if there are any."""
    charts = []
    for name in [n for n in _known_first(run.metric_names()) if n not in ("loss", "tokens")]:
        series = run.metric(name)
        if name in ("skipped", "padding") and not np.any(series.values > 0):
            continue
        title = _TITLES.get(name, name.replace("_", " ").capitalize())
        title = "Not counted, share of the batch" if name == "padding" and run.counts_some_tokens else title
        charts.append(_curve(name, title, series, run.step))
    for name, title in (("tokens_per_second", "Tokens per second"), ("mfu", "Model FLOPs utilization")):
        charts.append(_curve(name, title, run.metric(name, "throughput"), run.step, baseline=True))
    for label, series in text_losses(run):
        charts.append(_curve(f"loss-{label}", f"Loss of {label}, nats per token", series, run.step))
    for name, series in accuracies(run):
        charts.append(_curve(f"accuracy-{name}", f"Exact match of {name}, share", series, run.step, baseline=True))
    for name, title, series in head_curves(run):
        charts.append(_curve(name, title, series, run.step))
    for role, series in update_ratios(run):
        charts.append(_curve(f"ratio-{role}", f"Update over parameter: {role}", series, run.step))
    for name, title, series in layer_curves(run):
        charts.append(_curve(name, title, series, run.step))
    charts.append(_curve("log_z", "Log-normaliser of the logits, log Z, mean", log_normaliser(run), run.step))
    charts.append(_curve("noise-scale", "Gradient noise scale, tokens", noise_scales(run), run.step, baseline=True))
    waits = run.metric("data_wait_fraction", "throughput")
    charts.append(_curve("data_wait_fraction", "Waiting for data, share of a step", waits, run.step, baseline=True))
    return [chart for chart in charts if chart is not None]


def loss_png(run: RunData) -> bytes:
    """The loss chart as a PNG of 1720 x 740 pixels on white."""
    buffer = io.BytesIO()
    with style(LIGHT):
        figure, axes = new_figure(8.6, 3.7)
        _draw_losses(axes, LIGHT, run)
        # By this mark train/data/text recognises the picture when it lies beside text.
        figure.savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": "Cairn"})
    return buffer.getvalue()


_TITLES = {
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "skipped": "Skipped steps, in total",
    "padding": "Padding, share of the batch",
    "lost_updates": "Share of the parameters whose update was lost to rounding",
    "accuracy": "Pairs whose preferred answer is ahead, share",
    "margin": "Margin between preferred and other answers",
    "chosen_logp": "Log-probability of preferred answers, nats",
    "rejected_logp": "Log-probability of rejected answers, nats",
    "answer_logp": "Log-probability of answers, nats",
    "reference_kl": "Estimate of the KL divergence from the reference, nats",
    "divergence": "KTO's divergence z, nats",
    "chosen_score": "Score of preferred answers",
    "rejected_score": "Score of rejected answers",
    "reward": "Reward of drawn answers, mean",
    "accuracy_strict": "Drawn answers that are right exactly, share",
    "accuracy_lenient": "Drawn answers that are right at their end, share",
    "kl": "Distance to the reference, nats per token",
    "entropy": "Entropy of the policy, nats per token",
    "answer_tokens": "Tokens of drawn answers, mean",
    "truncated_share": "Drawn answers that a limit cut off, share",
    "equal_groups": "Prompts whose answers all have one reward, share",
    "ratio": "Ratio of the policy to the one before the rollout's updates, mean",
    "clip_share": "Tokens whose ratio is clipped, share",
    "value_loss": "Loss of the value",
    "value_clip_share": "Tokens whose value is clipped, share",
    "value_explained": "Variance of returns that the value explains, share",
    "importance": "Importance weights of drawn tokens, mean",
    "logprob_difference": "Largest difference between the sampler's and the trainer's log-probabilities, nats",
    "reward_failures": "Answers whose reward failed",
    "z_loss": "z-loss",
    "multi_token_loss": "Loss of tokens further ahead, weighted",
    "balance_loss": "Load-balancing loss of the experts",
    "router_z_loss": "z-loss of the routers",
    "expert_load_entropy": "Entropy of the experts' load, 1 when even",
    "expert_load_max": "Busiest expert, in multiples of the mean load",
    "experts_dropped": "Share of tokens that an expert dropped",
    "router_entropy": "Entropy of the routers' scores, nats",
}


def _known_first(names: list[str]) -> list[str]:
    known = [name for name in _TITLES if name in names]
    return known + [name for name in names if name not in known]


def _draw_losses(axes: "Axes", colors: Palette, run: RunData) -> str:
    """Draws the loss chart; returns its caption."""
    train, validation = _clip_to_plottable(run.metric("loss")), _clip_to_plottable(run.metric("loss", "eval")).finite()
    finite = train.finite()
    caption = []
    if len(finite) > 20:
        _draw_points(axes, finite, colors.train)
        smoothed = smooth(smooth(finite.values))  # twice, so that one spike makes a hill and not a box
        keep = _subsample(len(finite))
        axes.plot(finite.steps[keep], smoothed[keep], color=colors.train, linewidth=1.6, label="training, smoothed")
    elif len(finite):
        axes.plot(
            finite.steps, finite.values, _line_format(finite), color=colors.train, linewidth=1.6, label="training"
        )
    if len(validation):
        axes.plot(
            validation.steps,
            validation.values,
            color=colors.validation,
            linewidth=1.0,
            marker="o" if len(validation) <= 60 else None,
            markersize=3.6,
            markeredgewidth=0,
            label="validation",
        )
    if cut := _clip_top(axes, finite.values, validation.values):
        caption.append(f"The first steps start at {format_fixed(cut, 2)}, above the picture.")
    caption += _mark_not_finite(axes, train, colors)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="upper right", labelcolor=colors.muted, handlelength=1.4)
    restarts = run.restarts().steps
    for step in restarts:
        axes.axvline(step, color=colors.muted, linewidth=0.8, linestyle=":")
    if len(restarts):
        caption.append("Dotted lines: the run stopped and continued.")
    _set_step_axis(axes, run.step)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token")
    return " ".join(caption)


def _curve(name: str, title: str, series: Series, last_step: int, baseline: bool = False) -> Chart | None:
    """A small chart of one metric; on a log scale where it spans more than a factor of 50; None without a point."""
    if not len(series):
        return None
    series = _clip_to_plottable(series)
    finite, caption = series.finite(), []

    def draw(axes: "Axes", colors: Palette) -> None:
        line = finite
        if len(finite) > _POINTS:
            # The median of each group, not a mean: one spike must not look like a plateau.
            line = _draw_points(axes, finite, colors.train)
        axes.plot(line.steps, line.values, _line_format(line), color=colors.train, linewidth=1.4)
        _set_step_axis(axes, last_step)
        positive = finite.values[finite.values > 0]
        spread = np.max(positive) / np.quantile(positive, 0.02) if len(positive) else 1.0
        if name == "grad_norm" and len(positive) == len(finite) and spread > 50:
            axes.set_yscale("log")
            caption.append("Log scale.")
        elif len(finite) and (baseline or finite.values.min() >= 0):
            axes.set_ylim(bottom=0, top=max(float(finite.values.max()) * 1.08, 1e-12))
        if name in ("mfu", "data_wait_fraction"):
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        caption.extend(_mark_not_finite(axes, series, colors))

    svg = draw_svg(name, draw, width=4.2, height=2.1, label=f"{title} over the steps")
    return Chart(title=title, caption=" ".join(caption), svg=svg)


def _clip_to_plottable(series: Series) -> Series:
    """A series whose values that are too large for plotting are infinite; no float32 is so large."""
    return Series(steps=series.steps, values=np.where(np.abs(series.values) > 1e100, np.inf, series.values))


def _set_step_axis(axes: "Axes", last_step: int) -> None:
    """Makes the axis of steps run from 0 to the last step, which has its own tick."""
    last = max(last_step, 1)
    axes.set_xlim(0, 1.01 * last)
    ticks = [tick for tick in axes.xaxis.get_major_locator().tick_values(0, last) if 0 <= tick < 0.92 * last]
    axes.set_xticks([*ticks, last])


def _draw_points(axes: "Axes", series: Series, color: str) -> Series:
    """Draws every point faintly: a line when there are few, else the band between the extremes of successive groups.

    Returns the points, or the medians of the groups.
    """
    if len(series) <= _POINTS:
        axes.plot(series.steps, series.values, color=color, alpha=0.35, linewidth=0.8)
        return series
    starts = np.linspace(0, len(series), _POINTS // 2, endpoint=False).astype(int)
    groups = np.split(series.values, starts[1:])
    ends = np.append(starts[1:], len(series)) - 1
    middles = (series.steps[starts] + series.steps[ends]) / 2
    lowest, highest = [group.min() for group in groups], [group.max() for group in groups]
    axes.fill_between(middles, lowest, highest, color=color, alpha=0.25, linewidth=0)
    return Series(steps=middles, values=np.array([np.median(group) for group in groups]))


def _line_format(series: Series) -> str:
    """The format of a line; a single point, which makes no line, is a dot."""
    return "." if len(series) == 1 else "-"


def _subsample(length: int) -> np.ndarray:
    return np.unique(np.linspace(0, length - 1, min(length, _POINTS)).round().astype(int))


def _clip_top(axes: "Axes", train: np.ndarray, validation: np.ndarray) -> float | None:
    """Cuts off the high values of the first steps, which would flatten the rest; returns the highest if it did."""
    if len(train) < 50:
        return None
    top = max(float(np.quantile(train, 0.985)), float(validation[1:].max()) if len(validation) > 1 else -np.inf)
    bottom = min(float(train.min()), float(validation.min()) if len(validation) else np.inf)
    highest = max(float(train.max()), float(validation.max()) if len(validation) else -np.inf)
    margin = 0.06 * (top - bottom)
    if highest - bottom < 1.25 * (top - bottom) or margin <= 0:
        return None
    axes.set_ylim(bottom - margin, top + margin)
    return highest


def _mark_not_finite(axes: "Axes", series: Series, colors: Palette) -> list[str]:
    """Draws ticks along the bottom where a value is NaN or infinite; returns a sentence about them."""
    broken = series.steps[~np.isfinite(series.values)]
    if not len(broken):
        return []
    height = axes.get_xaxis_transform()
    axes.plot(
        broken,
        np.full(len(broken), 0.03),
        "|",
        transform=height,
        color=colors.bad,
        markersize=7,
        label="not finite",
    )
    return [f"{len(broken):,} of {len(series):,} points are NaN or infinite (red ticks)."]
