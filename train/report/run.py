"""Reads a run folder into memory, and computes its headline numbers. Leaves out missing and damaged parts."""

import dataclasses
import itertools
import math
import os
import pathlib
import time
from typing import Any

import numpy as np

from model.errors import UserError
from train.data.shards.dataset import dataset_of_run
from train.files.files import parse_json
from train.files.paths import local_path
from train.files.schema import conforming, violations
from train.run.environment import read_sessions
from train.run.metrics import read_metrics, read_samples, read_statistics, read_status, read_throughput
from train.run.time_spent import read_time_spent
from train.terminal.formatting import format_count, format_duration, format_number, format_percent

_STALL_SECONDS = 600.0  # seconds without a new line after which a run that says it is running is "stalled"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """One metric over the steps: `steps` ascending, `values` float64 that may hold NaN and infinities."""

    steps: np.ndarray
    values: np.ndarray

    def finite(self) -> "Series":
        """The points whose value is neither NaN nor infinite."""
        keep = np.isfinite(self.values)
        return Series(steps=self.steps[keep], values=self.values[keep])

    def __len__(self) -> int:
        return len(self.steps)


_NUMBER, _TEXT = (float, type(None)), (str, type(None))
# The schemas of the values in a run's files that the report reads; see train/files/schema.py.
_SCHEMAS: dict[str, Any] = {
    "status.json": {"state?": str, "step?": int, "total_steps?": (int, type(None)), "reason?": _TEXT},
    "parameters.json": [{"name?": str, "count?": int, "moved_by?": str}],
    "config.json": {"evaluation?": {"every?": int}},
    "evaluation.json": {
        "validation?": {...: object},
        "baselines?": [{"name?": str, "bits_per_byte?": _NUMBER}],
        "samples?": {"count?": int, "parsed?": int},
    },
    "profile/operations.json": {
        "first?": int,
        "last?": int,
        "operations?": [{"name": str, "share": float, "count": int}],
    },
    "environment.json": [
        {
            "command?": [str],
            "host?": dict,
            "devices?": {"kind?": str, "count?": int},
            "packages?": dict,
            "variables?": dict,
            "git?": dict,
        }
    ],
}

_TOTALS = ("seconds", "tokens")  # totals in a throughput line; all other fields describe the interval that it ends


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunData:
    """The contents of the files of a run folder; `notes` names the files that could not be read.

    `evaluations` are those of the validation split, `named_evaluations` those of other texts, which have names.
    `unrestored` describes the validation text that the tokenizer loses, in words; None where it loses none.
    """

    folder: pathlib.Path
    train: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    named_evaluations: list[dict[str, Any]]
    statistics: list[dict[str, Any]]
    throughput: list[dict[str, Any]]
    samples: list[tuple[int, str]]
    parameters: list[dict[str, Any]]
    config: dict[str, Any]
    evaluation: dict[str, Any]
    sessions: list[dict[str, Any]]
    status: dict[str, Any]
    time_spent: list[dict[str, Any]]
    profile: dict[str, Any]
    notes: list[str]
    unrestored: str | None = None
    _series: dict[tuple[str, str], Series] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def step(self) -> int:
        """The last step that the files mention."""
        steps = [line["step"] for lines in (self.train, self.evaluations) for line in lines[-1:]]
        return max([*steps, self.status.get("step") or 0])

    @property
    def counts_some_tokens(self) -> bool:
        """Whether the loss leaves out tokens that are no padding: conversations of which answers alone count."""
        data = self.config.get("data")
        return isinstance(data, dict) and data.get("mask", "all") != "all"

    def metric(self, name: str, kind: str = "train") -> Series:
        """A metric of the lines of one kind: "train", "eval" or "throughput"; no speeds that include compilation."""
        if (kind, name) not in self._series:
            lines = {"train": self.train, "eval": self.evaluations, "throughput": self.throughput}[kind]
            if kind == "throughput" and name not in _TOTALS:
                lines = [line for line in lines if not line.get("includes_compilation")]
            lines = [line for line in lines if isinstance(line.get(name), (int, float))]
            steps = np.array([line["step"] for line in lines], dtype=np.int64)
            values = np.array([line[name] for line in lines], dtype=np.float64)
            self._series[kind, name] = Series(steps=steps, values=values)
        return self._series[kind, name]

    def restarts(self) -> Series:
        """The last timed step before each interruption, and the seconds of its session."""
        timed = [line for line in self.throughput if isinstance(line.get("seconds"), (int, float))]
        last = [line for line, after in itertools.pairwise(timed) if line.get("session") != after.get("session")]
        steps = np.array([line["step"] for line in last], dtype=np.int64)
        return Series(steps=steps, values=np.array([line["seconds"] for line in last], dtype=np.float64))

    def metric_names(self) -> list[str]:
        """The names of the metrics in the train lines, in the order of their first appearance."""
        names = {name: None for line in self.train for name in line}
        return [name for name in names if name not in ("kind", "step")]


def load(run_folder: str | os.PathLike[str]) -> RunData:
    """Reads a run folder. Raises UserError when there is no such folder."""
    folder = local_path(run_folder, "a run folder whose report is written")
    if not folder.is_dir():
        raise UserError(f"there is no run folder {str(folder)!r}; give a folder such as runs/quickstart")
    notes: list[str] = []

    def attempt(read: Any, default: Any) -> Any:
        try:
            return read(folder)
        except (UserError, OSError) as error:
            notes.append(str(error))
            return default

    def conforming_part(name: str, content: Any) -> Any:
        """The parts of a content that fit the schema of its file; adds a note about the others."""
        schema = _SCHEMAS[name]
        invalid = list(violations(content, schema))
        if invalid:
            more = f", and {len(invalid) - 1} more" if invalid[1:] else ""
            notes.append(f"{folder / name} holds values that do not fit its schema, left out here: {invalid[0]}{more}")
        part = conforming(content, schema)
        return type(schema)() if part is None else part

    def read_json(name: str) -> Any:
        path = folder / name
        try:
            return conforming_part(name, parse_json(path.read_bytes()))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            notes.append(f"{path} could not be read: {error}")
        return type(_SCHEMAS[name])()

    lines = attempt(read_metrics, [])
    return RunData(
        folder=folder,
        train=[line for line in lines if line.get("kind") == "train"],
        evaluations=[line for line in lines if line.get("kind") == "eval" and "name" not in line],
        named_evaluations=[line for line in lines if line.get("kind") == "eval" and "name" in line],
        statistics=attempt(read_statistics, []),
        throughput=attempt(read_throughput, []),
        samples=attempt(read_samples, []),
        time_spent=attempt(read_time_spent, []),
        profile=read_json("profile/operations.json"),
        parameters=read_json("parameters.json"),
        config=read_json("config.json"),
        evaluation=read_json("evaluation.json"),
        sessions=conforming_part("environment.json", attempt(read_sessions, [])),
        status=conforming_part("status.json", attempt(read_status, None) or {}),
        notes=notes,
        unrestored=_unrestored(folder),
    )


def _unrestored(folder: pathlib.Path) -> str | None:
    """The validation text that the tokenizer loses, in words; None if it loses none, or if the dataset is gone."""
    try:
        dataset = dataset_of_run(folder)
    except UserError:
        return None
    return dataset.unrestored_in_words("validation") if "validation" in dataset.description["splits"] else None


def smooth(values: np.ndarray) -> np.ndarray:
    """The mean over a centred window that grows from 1 at the start to a 50th of the series; same length.

    Growing, because a loss falls fast at first, where a wide window would hide it; centred, so that it does not lag.
    """
    n = len(values)
    # A spike beyond this would lose all later values to rounding in the cumulative sums.
    limit = 1e6 * float(np.median(np.abs(values))) if n else 0.0
    values = np.clip(values, -limit, limit) if limit else values
    index = np.arange(n)
    half = np.minimum(index // 5, max(1, n // 100))
    first, last = index - half, np.minimum(index + half, n - 1)
    total = np.concatenate([[0.0], np.cumsum(values)])
    return (total[last + 1] - total[first]) / (last + 1 - first)


# -------------------------------------------------------------------------------------------- numbers that sum up


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadlineNumber:
    """One headline number, as text; `note` says where it comes from."""

    label: str
    value: str
    note: str = ""


def run_state(run: RunData) -> tuple[str, str]:
    """(state, details): "finished", "running", "stalled", "interrupted", "stopped", "failed", or "unknown"."""
    total = run.status.get("total_steps")
    at = f"step {run.step:,}" + (f" of {total:,}" if isinstance(total, int) else "")
    found = str(run.status.get("state", "unknown"))
    if found == "running" and (seconds := _seconds_since_last_line(run)) > _STALL_SECONDS:
        return "stalled", f"{at}; says it is running, but wrote nothing for {format_duration(seconds)}"
    reason = run.status.get("reason")
    return found, f"{at}; {reason}" if reason else at


def _seconds_since_last_line(run: RunData) -> float:
    times = [path.stat().st_mtime for path in map(run.folder.joinpath, _LIVE_FILES) if path.exists()]
    return time.time() - max(times) if times else 0.0


_LIVE_FILES = ("metrics.jsonl", "throughput.jsonl", "status.json")


def headline_numbers(run: RunData) -> list[HeadlineNumber]:
    """The headline numbers of a run, the most important first, without unknown numbers."""
    numbers = _validation_numbers(run)
    loss = run.metric("loss").finite()
    if len(loss):
        averaged = max(1, len(loss) // 50)
        note = f"mean of the last {averaged} logged steps" if averaged > 1 else "last logged step"
        numbers.append(
            HeadlineNumber(
                label="Training loss", value=format_number((loss.values[-averaged:] / averaged).sum()), note=note
            )
        )
    broken = int(np.sum(~np.isfinite(run.metric("loss").values)))
    if broken:
        numbers.append(HeadlineNumber(label="Steps with no finite loss", value=f"{broken:,}"))
    trained, parameters = tokens_trained_on(run), total_parameters(run)
    if trained:
        per = f"{trained / parameters:.3g} per parameter" if parameters else ""
        numbers.append(HeadlineNumber(label="Tokens trained on", value=format_count(trained), note=per))
    padding = run.metric("padding").values
    if padding.any():
        label, note = "Padding", "positions in the batches without a target"
        if run.counts_some_tokens:
            label, note = "Not counted", "prompts, template and padding: positions in the batches without a target"
        numbers.append(HeadlineNumber(label=label, value=f"{padding.mean():.1%}", note=note))
    if parameters:
        frozen = frozen_parameters(run)
        still = f", {frozen:,} of them frozen" if frozen else ""
        numbers.append(
            HeadlineNumber(label="Parameters", value=format_count(parameters), note=f"{parameters:,}{still}")
        )
    seconds, speed = training_seconds(run), run.metric("tokens_per_second", "throughput").finite()
    if seconds:
        numbers.append(HeadlineNumber(label="Training time", value=format_duration(seconds)))
    if len(speed):
        mfu = run.metric("mfu", "throughput").finite()
        note = "median" + (f"; MFU {format_percent(float(np.median(mfu.values)))}" if len(mfu) else "")
        numbers.append(
            HeadlineNumber(label="Tokens per second", value=format_count(float(np.median(speed.values))), note=note)
        )
    skipped = run.metric("skipped")
    if len(skipped) and skipped.values[-1] > 0:
        numbers.append(HeadlineNumber(label="Skipped steps", value=f"{skipped.values[-1]:,.0f}", note="NaN or outlier"))
    lost = run.metric("lost_updates").finite()
    if len(lost) and np.any(lost.values > 0):
        note = "mean of the logged steps; see model.precision.parameters"
        numbers.append(HeadlineNumber(label="Updates lost to rounding", value=f"{lost.values.mean():.1%}", note=note))
    return numbers


_SCORES = (("loss", "Validation loss"), ("perplexity", "Perplexity"), ("bits_per_byte", "Bits per byte"))


def _validation_numbers(run: RunData) -> list[HeadlineNumber]:
    """Loss, perplexity and bits per byte: from evaluation.json where it has them, else from the last evaluation."""
    final = run.evaluation.get("validation")
    final = final if isinstance(final, dict) else {}
    found = []
    for name, label in _SCORES:
        points = run.metric(name, "eval")
        extra = f"; {run.unrestored}" if name == "bits_per_byte" and run.unrestored else ""
        if name in final and isinstance(final[name], int | float | None):
            found.append(HeadlineNumber(label=label, value=format_score(final[name]), note=f"final evaluation{extra}"))
        elif len(points):
            note = f"step {points.steps[-1]:,}"
            best = points.finite()
            if len(best) and (lowest := int(np.argmin(best.values))) != len(points) - 1:
                note += f"; best {format_number(best.values[lowest])} at {best.steps[lowest]:,}"
            found.append(HeadlineNumber(label=label, value=format_number(points.values[-1]), note=note + extra))
    return found


def format_score(value: float | None) -> str:
    """A measure of evaluation.json, where None stands for one that is not finite."""
    return "not finite" if value is None else format_number(value)


def tokens_trained_on(run: RunData) -> float:
    """The number of targets up to the last step, extrapolated from the last line that counts them."""
    counts = [series for series in (run.metric("tokens"), run.metric("tokens", "throughput")) if len(series)]
    last = max(counts, key=lambda series: int(series.steps[-1]), default=None)
    if last is None or not last.steps[-1]:
        return 0.0
    return float(last.values[-1] / last.steps[-1] * run.step)


def total_parameters(run: RunData) -> int:
    """The number of parameters, as parameters.json counts them."""
    return sum(entry["count"] for entry in run.parameters if isinstance(entry.get("count"), int))


def frozen_parameters(run: RunData) -> int:
    """The number of frozen parameters, from parameters.json."""
    frozen = [entry for entry in run.parameters if entry.get("moved_by") == "nothing"]
    return sum(entry["count"] for entry in frozen if isinstance(entry.get("count"), int))


def training_seconds(run: RunData) -> float:
    """The time spent training, summed over all sessions; `seconds` begins at 0 in each."""
    points = run.metric("seconds", "throughput").finite().values
    if not len(points):
        return 0.0
    return float(points[-1] + run.restarts().values.sum())


def baseline_comparison(run: RunData) -> list[tuple[str, float, bool]]:
    """(name, bits per byte, is it this run) of the run and its baselines, the best first; empty without a baseline."""
    baselines = run.evaluation.get("baselines")
    rows = [
        (str(entry.get("name", "unnamed")), float(entry["bits_per_byte"]), False)
        for entry in (baselines if isinstance(baselines, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("bits_per_byte"), (int, float))
    ]
    final = run.evaluation.get("validation")
    own = final.get("bits_per_byte") if isinstance(final, dict) else None
    if rows and isinstance(own, (int, float)):
        rows.append(("this run", float(own), True))
    return sorted((row for row in rows if math.isfinite(row[1])), key=lambda row: row[1])


def parsed_samples(run: RunData) -> tuple[str, str] | None:
    """The share of the sampled files that parse, and how many they are, in words; None when it was not measured."""
    samples = run.evaluation.get("samples")
    if not isinstance(samples, dict) or not isinstance(samples.get("count"), int) or not samples["count"]:
        return None
    parsed = samples.get("parsed", 0)
    return f"{parsed / samples['count']:.0%}", f"{parsed:,} of {samples['count']:,}"
