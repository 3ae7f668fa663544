"""The results of a sweep: its sweep.json and its run folders as numbers. Missing and failed runs are part of them."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.cost import count_parameters, training_flops_per_token
from model.errors import UserError
from model.options.json import to_json
from train import experiment as experiments
from train.config_file import from_stored, with_overrides
from train.data.interface import DataOption
from train.experiment import Experiment
from train.files.files import read_json
from train.files.paths import local_path
from train.lab.curves import Curve, curve_of, peak_bytes_of, speed_of
from train.lab.folder import FILE, VARIANT_SCHEMA, is_sweep
from train.lab.variants import seeded
from train.report.run import RunData, load, run_state
from train.state import StateConfig

_TEXT, _MAYBE = (str, type(None)), (float, type(None))
_ROUND = {"steps": int, "losses": {...: _MAYBE}}
_SEARCH = {"rate?": _MAYBE, "at_edge?": bool, "runs?": int, "rounds?": [_ROUND]}
_SCHEMA: dict[str, Any] = {
    "format": int,
    "name": str,
    "base": str,
    "variants": {...: VARIANT_SCHEMA},
    "seeds": [int],
    "earlier_seeds?": [[int]],
    "config?": str,
    "hold?": _TEXT,
    "hold_by?": _TEXT,
    "metric?": str,
    "claim?": _TEXT,
    "alpha?": _MAYBE,
    "search?": (dict, type(None)),
    "experiment?": dict,
}
# Parts of the name of a metric that is better when it is higher; all others are losses of some kind.
_HIGHER_IS_BETTER = ("accuracy", "mfu", "tokens_per_second")
_JOINT = "launch.clusters.joint"  # the module that trains several runs in one program
_TOKEN_METRICS = ("loss", "perplexity")  # those that other tokens change


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """The size of a variant's model, and the batches that it trains on.

    Attributes:
      parameters: their number.
      active_parameters: those that one token uses.
      flops_per_token: model FLOPs of one token in training (the convention of model/cost.py).
      vocab_size: of the tokenizer.
      data: the option of its data, which says how large batches are.
    """

    parameters: int
    active_parameters: int
    flops_per_token: float
    vocab_size: int
    data: DataOption

    def tokens_before(self, step: int) -> int:
        """The positions in all batches before a step, which are fewer under a ramp."""
        return self.data.rows_before(step) * self.data.sequence_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
    """One run.

    Attributes:
      variant: the name of its variant.
      seed: its seed.
      folder: its run folder, which may be missing.
      state: "finished" at its last step with an evaluation there; "diverged" if that is not finite; "running",
        "stalled", "interrupted", "stopped", "failed", "unknown" as the report of a run says; "missing" without a
        folder; "ended early" before the last step of its config; "not evaluated" at its last step; "another run" of a
        config that is not the sweep's.
      detail: a sentence about the state, for a person.
      step: the last step.
      total_steps: the steps of its config; None where that is not known.
      final: every number of the evaluations at the last step, by name; "NAME/loss" of the evaluation NAME. Empty
        unless the state is "finished" or "diverged".
      curve: the metric of the sweep against the costs; None without two points.
      seconds: of training steps, without compilation, evaluation and saving; None where they were not timed.
      tokens_per_second: the median.
      peak_bytes: the most memory of a device in use; None where it was not recorded.
      joint: whether it trained in one program with others, so that time, speed and memory are theirs too.
    """

    variant: str
    seed: int
    folder: pathlib.Path
    state: str
    detail: str
    step: int = 0
    total_steps: int | None = None
    final: dict[str, float] = dataclasses.field(default_factory=dict)
    curve: Curve | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    peak_bytes: float | None = None
    joint: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariantResult:
    """A variant and its runs.

    Attributes:
      name: its name, the base among them.
      settings: its changes.
      tuned: the settings that the search of its rate found.
      held: the settings that make a quantity equal to that of the base.
      note: a sentence about `held`.
      search: the record of the search of its rate; empty without one.
      sizes: None if its config cannot be read.
      config: the resolved config of its first seed; empty if there is none that can be read.
      runs: by seed, one for every declared seed.
    """

    name: str
    settings: tuple[str, ...]
    tuned: tuple[str, ...]
    held: tuple[str, ...]
    note: str
    search: dict[str, Any]
    sizes: Sizes | None
    config: dict[str, Any]
    runs: dict[int, RunResult]

    def final(self, metric: str) -> dict[int, float]:
        """The value of each run that is at its last step, by seed; NaN or infinite where it diverged."""
        return {seed: run.final[metric] for seed, run in self.runs.items() if metric in run.final}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepResults:
    """A sweep, read.

    Attributes:
      folder: its folder.
      content: sweep.json.
      variants: by name, in the order of sweep.json.
      notes: sentences about what could not be read.
    """

    folder: pathlib.Path
    content: dict[str, Any]
    variants: dict[str, VariantResult]
    notes: list[str]

    @property
    def name(self) -> str:
        """The name of the sweep."""
        return str(self.content["name"])

    @property
    def base(self) -> str:
        """The name of the base among the variants."""
        return str(self.content["base"])

    @property
    def seeds(self) -> tuple[int, ...]:
        """The declared seeds."""
        return tuple(self.content["seeds"])

    @property
    def earlier_seeds(self) -> list[list[int]]:
        """The seeds that were declared before, once for each time that seeds were added after a run had ended."""
        return [list(seeds) for seeds in self.content.get("earlier_seeds", [])]

    @property
    def metric(self) -> str:
        """The number that is compared."""
        return str(self.content.get("metric") or "loss")

    @property
    def alpha(self) -> float | None:
        """The rate of false verdicts; None if no verdicts were asked for."""
        alpha = self.content.get("alpha", 0.05)
        return None if alpha is None else float(alpha)

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower value of the metric is better."""
        return not any(word in self.metric for word in _HIGHER_IS_BETTER)

    def runs(self) -> list[RunResult]:
        """All runs, variant by variant."""
        return [run for variant in self.variants.values() for run in variant.runs.values()]

    def final(self, metric: str | None = None) -> dict[str, dict[int, float]]:
        """Variant -> seed -> final value of a metric, of the sweep's own if None; see `VariantResult.final`."""
        return {name: variant.final(metric or self.metric) for name, variant in self.variants.items()}


def read_results(folder: str | os.PathLike[str]) -> SweepResults:
    """Reads the folder of a sweep, finished or not.

    Raises UserError for a folder without sweep.json, for a damaged one, and for a base that is no variant.
    """
    path = local_path(folder, "the folder of a sweep")
    if not is_sweep(path):
        raise UserError(f"{path} holds no {FILE}: expected the folder of a sweep, such as launch.sweep --run makes")
    content = read_json(path / FILE, remedy="put a copy of it back", schema=_SCHEMA)
    if content["base"] not in content["variants"]:
        raise UserError(f"{path / FILE}: the base {content['base']!r} is none of the variants {[*content['variants']]}")
    notes: list[str] = []
    base = _base_experiment(content, notes)
    variants = {name: _read_variant(path, name, content, base, notes) for name in content["variants"]}
    vocabularies = {variant.sizes.vocab_size for variant in variants.values() if variant.sizes}
    results = SweepResults(folder=path, content=content, variants=variants, notes=notes)
    if len(vocabularies) > 1 and results.metric.rpartition("/")[2] in _TOKEN_METRICS:
        sizes = ", ".join(f"{size:,}" for size in sorted(vocabularies))
        notes.append(
            f"The variants have vocabularies of {sizes} tokens, and a {results.metric} per token of another vocabulary "
            "is another quantity: compare metric='bits_per_byte'."
        )
    return results


def _base_experiment(content: Mapping[str, Any], notes: list[str]) -> Experiment | None:
    """The experiment that variants change; None if sweep.json has none that fits this code."""
    if "experiment" not in content:
        return None
    try:
        return from_stored(content["experiment"])
    except (UserError, ValueError) as error:
        notes.append(f"The base of {FILE} no longer fits the code, so the configs of runs are not checked: {error}")
        return None


def _read_variant(
    folder: pathlib.Path, name: str, content: Mapping[str, Any], base: Experiment | None, notes: list[str]
) -> VariantResult:
    option = content["variants"][name]
    parts = {part: tuple(option.get(part, ())) for part in ("settings", "tuned", "held")}
    settings = (*parts["settings"], *parts["tuned"], *parts["held"])
    folders = {seed: folder / f"{name}-seed{seed}" for seed in content["seeds"]}
    experiment = _experiment(base, settings, folders, notes)
    sizes = None if experiment is None else _sizes(experiment)
    runs = {}
    for seed, run_folder in folders.items():
        data = load(run_folder) if run_folder.is_dir() else None
        other = "" if base is None else _other_experiment(base, settings, seed, run_folder)
        runs[seed] = _read_run(name, seed, run_folder, data, other, content.get("metric") or "loss", sizes)
    return VariantResult(
        name=name,
        **parts,
        note=option.get("note", ""),
        search=(content.get("search") or {}).get(name) or {},
        sizes=sizes,
        config={} if experiment is None else to_json(experiment),
        runs=runs,
    )


def _experiment(
    base: Experiment | None, settings: Sequence[str], folders: Mapping[int, pathlib.Path], notes: list[str]
) -> Experiment | None:
    """The experiment of a variant with its first seed; read from the folder of a run if sweep.json has no base."""
    if base is not None:
        try:
            return with_overrides(base, seeded(settings, next(iter(folders), 0)))
        except UserError as error:
            notes.append(f"The settings of a variant no longer fit the code: {error}")
    for run_folder in folders.values():
        if (run_folder / "config.json").is_file():
            try:
                return experiments.load(run_folder)
            except UserError as error:
                notes.append(str(error))
    return None


def _sizes(experiment: Experiment) -> Sizes:
    count, data = count_parameters(experiment.model), experiment.data
    return Sizes(
        parameters=count.total,
        active_parameters=count.active,
        flops_per_token=training_flops_per_token(
            experiment.model, data.sequence_length, StateConfig.of(experiment).specs
        ),
        vocab_size=experiment.model.vocab_size,
        data=data,
    )


def _other_experiment(base: Experiment, settings: Sequence[str], seed: int, folder: pathlib.Path) -> str:
    """A sentence if a run folder holds another experiment than that of the sweep; empty if not.

    Empty for settings that no longer fit the code too: a note of the sweep says that (`_experiment`).
    """
    if not (folder / "config.json").is_file():
        return ""
    try:
        own = with_overrides(base, seeded(settings, seed))
    except UserError:
        return ""
    try:
        experiments.check_same_experiment(own, folder)
    except UserError as error:
        return str(error)
    return ""


def _read_run(
    variant: str,
    seed: int,
    folder: pathlib.Path,
    data: RunData | None,
    other: str,
    metric: str,
    sizes: Sizes | None,
) -> RunResult:
    start = RunResult(variant=variant, seed=seed, folder=folder, state="missing", detail="not begun")
    if data is None or not (data.status or data.train or data.evaluations):
        return start
    state, detail = run_state(data)
    total = (data.config.get("training") or {}).get("num_steps", data.status.get("total_steps"))
    final: dict[str, float] = {}
    if other:
        state, detail = "another run", other
    elif state == "finished":
        final = _final_values(data)
        if isinstance(total, int) and data.step < total:
            state, detail, final = "ended early", f"at step {data.step:,} of {total:,}", {}
        elif metric not in final:
            state, detail = "not evaluated", f"no {metric} at its last step, {data.step:,}"
        elif not math.isfinite(final[metric]):
            state, detail = "diverged", f"{metric} is {final[metric]} at the end"
    if state not in ("finished", "diverged"):
        final = {}
    curve = curve_of(data, metric, sizes)
    return dataclasses.replace(
        start,
        state=state,
        detail=detail,
        step=data.step,
        total_steps=total if isinstance(total, int) else None,
        final=final,
        curve=curve,
        seconds=None if curve is None or not np.isfinite(curve.seconds[-1]) else float(curve.seconds[-1]),
        tokens_per_second=speed_of(data),
        peak_bytes=peak_bytes_of(data),
        joint=any(_JOINT in (session.get("command") or ()) for session in data.sessions),
    )


def _final_values(data: RunData) -> dict[str, float]:
    """The numbers of all evaluations at the last step."""
    lines = [line for line in (*data.evaluations, *data.named_evaluations) if line["step"] == data.step]
    return {
        f"{line['name']}/{name}" if "name" in line else name: float(value)
        for line in lines
        for name, value in line.items()
        if name not in ("kind", "step", "name") and isinstance(value, int | float)
    }
