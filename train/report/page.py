"""The words and tables of the report page, which fill the template page.html."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

from train.report import charts
from train.report.optional_parts import noise_headline, text_headlines
from train.report.run import (
    RunData,
    baseline_comparison,
    format_score,
    headline_numbers,
    parsed_samples,
    run_state,
    total_parameters,
)
from train.report.template import fill
from train.report.time_spent import goodput_headline, profile_rows, time_rows
from train.terminal.formatting import format_fixed, format_number, format_percent

_DIFF_SHOWN = 200_000  # characters; environment.json has more
_STEPS_SHOWN = 41  # steps with samples; samples.txt has more


def render(run: RunData) -> str:
    """The report as one HTML document that refers to nothing outside itself."""
    return fill("train.report", "page.html", **_content(run))


def _content(run: RunData) -> dict[str, Any]:
    word, details = run_state(run)
    loss, small, charts_missing = None, [], None
    try:
        loss, small = charts.loss_chart(run), charts.small_charts(run)
    except ImportError as error:
        charts_missing = f"No curves: matplotlib is not installed ({error})."
    samples = _samples(run)
    diff = str(_git(run).get("diff") or "")
    return {
        "run": run,
        "state": word,
        "about": " \u00b7 ".join([details, *_origin(run)]),
        "headline_numbers": [
            *headline_numbers(run),
            *goodput_headline(run),
            *text_headlines(run),
            *noise_headline(run),
        ],
        "loss": loss,
        "small": small,
        "charts_missing": charts_missing,
        "final": _final_evaluation(run),
        "bars": _bars(run),
        "time_rows": time_rows(run),
        "operations": profile_rows(run),
        "profiled": run.profile,
        "parsed": parsed_samples(run),
        "evaluations": _evaluations(run),
        "samples": samples[:_STEPS_SHOWN],
        "samples_title": _earlier_title(len(samples)),
        "first_evaluation": _first_evaluation(run),
        "parameters": _parameters(run),
        "show_mesh_axes": _devices(run) != 1,
        "total": total_parameters(run),
        "config": list(_config_leaves(run.config, "")),
        "environment": list(_environment(run)),
        "environment_title": _environment_title(run),
        "diff": diff[:_DIFF_SHOWN] + ("\n... cut here" if len(diff) > _DIFF_SHOWN else ""),
    }


def _samples(run: RunData) -> list[tuple[int, list[str]]]:
    """The texts of every step that has samples, the last step first."""
    groups = itertools.groupby(run.samples, key=lambda sample: sample[0])
    return [(step, [text for _, text in group]) for step, group in groups][::-1]


def _earlier_title(steps: int) -> str:
    if steps <= _STEPS_SHOWN:
        return f"From {steps - 1} earlier step" + ("s" if steps > 2 else "")
    return f"From the {_STEPS_SHOWN - 1} steps before; samples.txt has those of {steps - _STEPS_SHOWN:,} more"


def _first_evaluation(run: RunData) -> str:
    every = (run.config.get("evaluation") or {}).get("every")
    return f": the first evaluation comes at step {every:,}" if isinstance(every, int) else ""


def _devices(run: RunData) -> int:
    """The devices of the last session; 0 when that is not known."""
    devices = run.sessions[-1].get("devices") if run.sessions else None
    return int(devices.get("count", 0)) if isinstance(devices, dict) else 0


def _git(run: RunData) -> dict[str, Any]:
    git = run.sessions[-1].get("git") if run.sessions else None
    return git if isinstance(git, dict) else {}


def _origin(run: RunData) -> Iterator[str]:
    """The rest of the line under the title: start time, device, code revision, sessions."""
    if not run.sessions:
        return
    yield f"begun {str(run.sessions[0].get('started', '?'))[:16].replace('T', ' ')} UTC"
    devices, host = run.sessions[-1].get("devices") or {}, run.sessions[-1].get("host") or {}
    kind = str(devices.get("kind", "unknown device"))
    if kind == "cpu":
        kind = f"{host.get('cpu', 'CPU')}, {host.get('cpus', '?')} CPUs"
    yield kind if devices.get("count", 1) == 1 else f"{devices.get('count')} x {kind}"
    git = _git(run)
    if git.get("revision"):
        yield f"code {str(git['revision'])[:10]}" + _changes(git)
    if len(run.sessions) > 1:
        yield f"{len(run.sessions)} sessions"


def _changes(git: dict[str, Any]) -> str:
    """Whether tracked files were changed, or only new ones lay beside them."""
    if git.get("diff"):
        return " with changes"
    return " with untracked files" if git.get("dirty") else ""


_SCORE_NAMES = {
    "name": "text",
    "loss": "loss",
    "perplexity": "perplexity",
    "word_loss": "loss per word",
    "word_perplexity": "perplexity per word",
    "bits_per_byte": "bits per byte",
    "standard_error": "standard error",
}


def _known_first(names: list[str]) -> list[str]:
    known = [name for name in _SCORE_NAMES if name in names]
    return known + [name for name in names if name not in known]


def _final_evaluation(run: RunData) -> list[tuple[str, str]]:
    final = run.evaluation.get("validation")
    final = final if isinstance(final, dict) else {}
    texts = {k: format_score(v) for k, v in final.items() if v is None or _is_number(v)}
    return [(_SCORE_NAMES.get(name, name.replace("_", " ")), texts[name]) for name in _known_first([*texts])]


def _evaluations(run: RunData) -> dict[str, Any]:
    """The evaluations made during training: a head and rows of text, the row of the lowest validation loss marked."""
    lines = sorted([*run.evaluations, *run.named_evaluations], key=lambda line: line["step"])
    columns = _known_first(list(dict.fromkeys(n for line in lines for n in line if n not in ("kind", "step", "name"))))
    if run.named_evaluations:
        lines, columns = [{"name": "validation"} | line for line in lines], ["name", *columns]
    losses = [line.get("loss", math.inf) for line in run.evaluations]
    finite = [loss for loss in losses if _is_number(loss) and math.isfinite(loss)]
    rows = [
        {
            "cells": [f"{line['step']:,}", *(_format_cell(line.get(name)) for name in columns)],
            "best": bool(finite) and not _is_named(line) and line.get("loss") == min(finite),
        }
        for line in lines
    ]
    return {
        "head": ["step", *(_SCORE_NAMES.get(name, name.replace("_", " ")) for name in columns)],
        "rows": rows,
    }


def _is_named(line: dict[str, Any]) -> bool:
    return line.get("name", "validation") != "validation"


def _bars(run: RunData) -> list[tuple[str, str, str, bool]]:
    rows = baseline_comparison(run)
    longest = max((value for _, value, _ in rows), default=0.0) or 1.0
    return [(name, format_fixed(value), f"{value / longest * 100:.1f}", own) for name, value, own in rows]


def _parameters(run: RunData) -> list[dict[str, str]]:
    total = total_parameters(run)
    rows = []
    for entry in run.parameters:
        size, shape = entry.get("count"), entry.get("shape")
        rows.append(
            {
                "name": str(entry.get("name", "?")) + (" (frozen)" if entry.get("moved_by") == "nothing" else ""),
                "shape": " \u00d7 ".join(map(str, shape)) if isinstance(shape, list) else _format_cell(shape),
                "axes": _axes(entry.get("axes")),
                "spec": _axes(entry.get("spec")),
                "count": f"{size:,}" if isinstance(size, int) else "?",
                "share": format_percent(size / total) if isinstance(size, int) and total else "",
            }
        )
    return rows


def _axes(value: Any) -> str:
    if isinstance(value, list):
        names = ["+".join(map(str, v)) if isinstance(v, list) else "\u2013" if v is None else str(v) for v in value]
        return ", ".join(names)
    return _format_cell(value)


def _config_leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """The leaves of a resolved config with their paths; an option's own path gives its class."""
    if isinstance(value, dict):
        if path and "type" in value:
            yield path, str(value["type"])
        for name, inside in value.items():
            if name != "type":
                yield from _config_leaves(inside, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for i, item in enumerate(value):
            yield from _config_leaves(item, f"{path}.{i}")
    else:
        yield path, str(tuple(value)) if isinstance(value, list) else repr(value)


def _environment_title(run: RunData) -> str:
    if not run.sessions:
        return ""
    packages = run.sessions[-1].get("packages") or {}
    parts = [
        f"Python {run.sessions[-1].get('python', '?')}",
        *(f"{p} {packages[p]}" for p in ("jax",) if p in packages),
    ]
    return ", ".join([*parts, str((run.sessions[-1].get("devices") or {}).get("kind", "unknown device"))])


def _environment(run: RunData) -> Iterator[tuple[str, str]]:
    """Rows about the last session, then one for every earlier start."""
    if not run.sessions:
        return
    last = run.sessions[-1]
    for name in ("started", "command", "folder", "python", "platform"):
        value = last.get(name, "?")
        yield name, " ".join(map(str, value)) if isinstance(value, list) else str(value)
    for name in ("host", "devices", "packages", "variables"):
        yield name, ", ".join(f"{key} {value}" for key, value in (last.get(name) or {}).items()) or "none"
    git = _git(run)
    yield (
        "git",
        f"{git.get('revision')} on {git.get('branch')}" if git.get("revision") else str(git.get("why", "?")),
    )
    if git.get("untracked"):
        yield "untracked", ", ".join(map(str, git["untracked"]))
    for session in run.sessions[:-1]:
        revision = str((session.get("git") or {}).get("revision"))[:10]
        yield f"session {session.get('session', '?')}", f"{session.get('started', '?')}, code {revision}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _format_cell(value: Any) -> str:
    if value is None:
        return "\u2013"
    return format_number(value) if _is_number(value) else str(value)
