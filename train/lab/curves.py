"""The curves of a run: a metric against steps, tokens, FLOPs and seconds."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import numpy as np

from train.report.run import RunData, Series, smooth

if TYPE_CHECKING:
    from train.lab.results import Sizes

COSTS = ("steps", "tokens", "flops", "seconds")
_FEWEST = 3  # evaluations that make a curve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """The metric at some steps, and the costs up to these.

    Attributes:
      steps: increasing.
      values: the metric; may hold NaN and infinities.
      tokens: targets that were trained on.
      flops: model FLOPs of the training; NaN if the model is not known.
      seconds: of training steps, without compilation, evaluation and saving; NaN where they were not timed.
      source: "evaluations", or the "training" loss, smoothed, of a run with few evaluations.
    """

    steps: np.ndarray
    values: np.ndarray
    tokens: np.ndarray
    flops: np.ndarray
    seconds: np.ndarray
    source: Literal["evaluations", "training"]

    def cost(self, name: str) -> np.ndarray:
        """The costs by a name of `COSTS`."""
        return np.asarray(getattr(self, name), np.float64)


def curve_of(data: RunData, metric: str, sizes: Sizes | None) -> Curve | None:
    """The curve of a run: of its evaluations; of its training loss if these are fewer than three; None for neither."""
    series, source = _evaluations(data, metric), "evaluations"
    if len(series) < _FEWEST and metric == "loss" and len(data.metric("loss")) >= _FEWEST:
        logged = data.metric("loss")
        series, source = Series(steps=logged.steps, values=smooth(logged.values)), "training"
    if len(series) < 2:
        return None
    steps = series.steps.astype(np.float64)
    tokens, positions = _at(steps, data.metric("tokens")), _positions(series.steps, sizes)
    return Curve(
        steps=steps,
        values=series.values,
        tokens=tokens if np.all(np.isfinite(tokens)) or sizes is None else positions,
        flops=positions * (sizes.flops_per_token if sizes is not None else np.nan),
        seconds=_at(steps, training_seconds(data)),
        source="evaluations" if source == "evaluations" else "training",
    )


def _positions(steps: np.ndarray, sizes: Sizes | None) -> np.ndarray:
    """The positions in the batches up to some steps; NaN if their sizes are not known."""
    return np.array([np.nan if sizes is None else sizes.tokens_before(int(step)) for step in steps], np.float64)


def _evaluations(data: RunData, metric: str) -> Series:
    name, _, field = metric.rpartition("/")
    if not name:
        return data.metric(field, "eval")
    lines = [
        line for line in data.named_evaluations if line["name"] == name and isinstance(line.get(field), int | float)
    ]
    return Series(
        steps=np.array([line["step"] for line in lines]), values=np.array([float(line[field]) for line in lines])
    )


def training_seconds(data: RunData) -> Series:
    """The seconds of all steps up to some steps; the step that was compiled counts as long as the median of others."""
    lines = [line for line in data.throughput if isinstance(line.get("step_seconds"), int | float)]
    timed = [line["step_seconds"] for line in lines if not line.get("includes_compilation")]
    if not timed:
        return Series(steps=np.zeros(0), values=np.zeros(0))
    median = float(np.median(timed))
    steps = np.array([line["step"] for line in lines])
    each = np.array([median if line.get("includes_compilation") else line["step_seconds"] for line in lines])
    return Series(steps=steps, values=np.cumsum(each * np.diff(steps, prepend=0)))


def speed_of(data: RunData) -> float | None:
    """The median of the tokens per second."""
    speeds = data.metric("tokens_per_second", "throughput").finite().values
    return float(np.median(speeds)) if len(speeds) else None


def peak_bytes_of(data: RunData) -> float | None:
    """The most memory of a device in use; None where it was not recorded."""
    peaks = [line["peak_bytes"] for line in data.throughput if isinstance(line.get("peak_bytes"), int | float)]
    return float(max(peaks)) if peaks else None


def _at(steps: np.ndarray, total: Series) -> np.ndarray:
    """A running total at some steps, linear between its points and from 0, and on beyond the last; NaN without any."""
    if not len(total):
        return np.full(len(steps), np.nan)
    known, values = np.append(0, total.steps), np.append(0.0, total.values)
    beyond = np.maximum(steps - known[-1], 0) * values[-1] / max(known[-1], 1)
    return np.asarray(np.interp(steps, known, values) + beyond, np.float64)
