"""Optional parts of a report: evaluations of further texts, statistics of layers and roles."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from train.optimizers import noise_scale
from train.report.run import HeadlineNumber, RunData, Series
from train.terminal.formatting import format_count, format_number, format_percent


def evaluations_by_name(run: RunData) -> dict[str, list[dict[str, Any]]]:
    """The lines of each further text, by its name, in the order of their first appearance."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in run.named_evaluations:
        groups.setdefault(str(line["name"]), []).append(line)
    return groups


def text_headlines(run: RunData) -> Iterator[HeadlineNumber]:
    """A headline for each further text: its last loss and bits per byte."""
    for name, lines in evaluations_by_name(run).items():
        last = lines[-1]
        bits = last.get("bits_per_byte")
        extra = f"; {format_number(bits)} bits per byte" if isinstance(bits, int | float) else ""
        if isinstance(last.get("loss"), int | float):
            yield HeadlineNumber(
                label=f"Loss of {name}", value=format_number(last["loss"]), note=f"step {last['step']:,}{extra}"
            )
        elif isinstance(last.get("accuracy"), int | float):
            lenient = last.get("accuracy_lenient")
            extra = f"; lenient {format_percent(lenient)}" if isinstance(lenient, int | float) else ""
            yield HeadlineNumber(
                label=f"Accuracy of {name}",
                value=format_percent(last["accuracy"]),
                note=f"exact match at step {last['step']:,}{extra}",
            )


def text_losses(run: RunData) -> Iterator[tuple[str, Series]]:
    """The loss of each further text over the steps."""
    for name, lines in evaluations_by_name(run).items():
        losses = {line["step"]: [line["loss"]] for line in lines if _is_number(line.get("loss"))}
        if losses or not any("accuracy" in line for line in lines):
            yield name, _series(losses)


def accuracies(run: RunData) -> Iterator[tuple[str, Series]]:
    """The exact-match accuracy of each set of questions over the steps."""
    for name, lines in evaluations_by_name(run).items():
        found = {line["step"]: [line["accuracy"]] for line in lines if _is_number(line.get("accuracy_lenient"))}
        if found:
            yield name, _series(found)


_OF_HEADS = {
    "repeated": "Induction score of the best head",
    "copying": "Copying score of the best head, at any distance from the copy",
    "previous_token": "Previous-token score of the best head",
    "in_context": "Loss late less early in the context, nats",
}


def head_curves(run: RunData) -> Iterator[tuple[str, str, Series]]:
    """The name, title and values over the steps of each number of evaluations of induction heads."""
    for name, lines in evaluations_by_name(run).items():
        for key, title in _OF_HEADS.items():
            values = {line["step"]: [line[key]] for line in lines if "repeated" in line and _is_number(line.get(key))}
            yield f"{key}-{name}", f"{title} ({name})", _series(values)


def update_ratios(run: RunData) -> Iterator[tuple[str, Series]]:
    """Update over parameter over the steps for each role, the geometric mean over its layers."""
    lines = [line for line in run.statistics if _is_number(line.get("ratio")) and line["ratio"] > 0]
    for role in dict.fromkeys(line.get("role") for line in lines):
        steps: dict[int, list[float]] = {}
        for line in lines:
            if line.get("role") == role:
                steps.setdefault(line["step"], []).append(math.log(line["ratio"]))
        means = _series(steps)
        yield str(role), Series(steps=means.steps, values=np.exp(means.values))


def layer_curves(run: RunData) -> Iterator[tuple[str, str, Series]]:
    """The name, title and values over the steps of each statistic of layers, in its first and in its last layer."""
    for name, title in _OF_LAYERS.items():
        lines = [line for line in run.statistics if _is_number(line.get(name)) and isinstance(line.get("layer"), int)]
        layers = sorted({line["layer"] for line in lines})
        for layer in dict.fromkeys(itertools.chain(layers[:1], layers[-1:])):
            values = {line["step"]: [line[name]] for line in lines if line["layer"] == layer}
            yield f"{name}-{layer}", f"{title} layer {layer}", _series(values)


_OF_LAYERS = {
    "stream": "Residual stream, RMS after",
    "score_max": "Attention score, largest in",
    "score_rms": "Attention scores, RMS in",
    "dead_units": "Dead units, share of",
}


def log_normaliser(run: RunData) -> Series:
    """The mean log-normaliser of the logits over the steps."""
    return _series({line["step"]: [line["log_z"]] for line in run.statistics if _is_number(line.get("log_z"))})


def noise_scales(run: RunData) -> Series:
    """The gradient noise scale over the steps, in tokens: of the lines so far, of which the last tenth weigh most."""
    lines = [line for line in run.statistics if line.get("role") == noise_scale.ROLE]
    lines = [line for line in lines if _is_number(line.get("noise")) and _is_number(line.get("signal"))]
    keep = 1 - 1 / max(len(lines) / 10, 1)
    found, noise, signal = {}, 0.0, 0.0
    for line in lines:
        noise, signal = keep * noise + line["noise"], keep * signal + line["signal"]
        if noise > 0 and signal > 0:
            found[line["step"]] = [noise / signal]
    return _series(found)


def noise_headline(run: RunData) -> Iterator[HeadlineNumber]:
    """A headline for the noise scale of the second half of the lines, if the run has measured it."""
    lines = [line for line in run.statistics if line.get("role") == noise_scale.ROLE]
    last = lines[len(lines) // 2 :]
    if (found := noise_scale.estimate(last)) is not None and found.tokens > 0:
        batch = last[-1].get("tokens")
        share = f"; a batch has {format_count(batch)}" if isinstance(batch, int | float) else ""
        bounds = ", ".join(format_count(x) if math.isfinite(x) else "more" for x in (found.low, found.high))
        note = f"tokens [{bounds}]{share}"
        yield HeadlineNumber(label="Gradient noise scale", value=format_count(found.tokens), note=note)


def _series(steps: dict[int, list[float]]) -> Series:
    values = [float(np.mean(some)) for some in steps.values()]
    return Series(steps=np.array(list(steps), dtype=np.int64), values=np.array(values, dtype=np.float64))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
