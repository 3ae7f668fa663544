"""The analysis of a sweep: ranks, differences, verdicts, speed-ups and the claim, from its results."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from model.errors import UserError
from train.lab.curves import COSTS, Curve
from train.lab.documents import compare_documents, too_few_documents
from train.lab.results import RunResult, SweepResults, VariantResult
from train.lab.scales import Decisions, compare_scales
from train.lab.statistics.claims import Claim, Judgement
from train.lab.statistics.differences import Difference, seed_noise
from train.lab.statistics.power import smallest_shown
from train.lab.statistics.speedup import Speedup, speedup
from train.lab.statistics.variants import Comparison, compare_variants

LEVEL = 0.95  # of all intervals
State = Literal["finished", "incomplete"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A variant in the table.

    Attributes:
      variant: its results.
      is_base: whether it is the base.
      values: the final metric of the seeds that are done, by seed; not finite where a run diverged.
      mean: over the finite ones; None without any.
      deviation: over seeds; None for fewer than two.
      comparison: with the base; None for the base itself.
      documents: the difference to the base over documents; None where it was not measured.
      speedups: to equal loss, by cost; a text says why there is none. Empty for the base.
      judgement: of the claim; None without a claim, and for the base of a claim about differences.
    """

    variant: VariantResult
    is_base: bool
    values: dict[int, float]
    mean: float | None
    deviation: float | None
    comparison: Comparison | None
    documents: Difference | None
    speedups: dict[str, Speedup | str]
    judgement: Judgement | None

    @property
    def name(self) -> str:
        """The name of the variant."""
        return self.variant.name

    @property
    def missing(self) -> list[RunResult]:
        """The runs without a final value."""
        return [run for run in self.variant.runs.values() if run.state != "finished"]

    def mean_of(self, name: str) -> float | None:
        """The mean over runs of a number of `RunResult`; None where no run has it."""
        found = [value for run in self.variant.runs.values() if (value := getattr(run, name)) is not None]
        return float(np.mean(found)) if found else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analysis:
    """What the results of a sweep show.

    Attributes:
      results: the results.
      rows: the variants, the best first; those without a value last.
      claim: None without one.
      noise: the standard deviation over seeds, pooled over variants; None where no variant has two seeds.
      shown: the smallest difference that all seeds would show in 80% of repetitions, at the median deviation of the
        variants' differences; None where that is not known.
      document_unit: the unit of the differences over documents; empty if these were not measured.
      decisions: the order of the variants against that in sweeps of larger models.
      notes: sentences for the top of the report: runs that are missing, numbers that could not be read.
    """

    results: SweepResults
    rows: list[Row]
    claim: Claim | None
    noise: float | None
    shown: float | None
    document_unit: str
    decisions: list[Decisions]
    notes: list[str]

    @property
    def state(self) -> State:
        """Whether every declared run is at its end."""
        done = all(run.state in ("finished", "diverged") for run in self.results.runs())
        return "finished" if done else "incomplete"

    @property
    def base(self) -> Row:
        """The row of the base."""
        return next(row for row in self.rows if row.is_base)

    def words(self) -> dict[str, list[str]]:
        """The names of variants by the word of their verdict."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            if row.comparison is not None:
                found.setdefault(row.comparison.verdict.word, []).append(row.name)
        return found


def analyse(results: SweepResults, larger: Sequence[SweepResults] = ()) -> Analysis:
    """Compares the variants of a sweep.

    Raises UserError for a claim that cannot be read, and for a larger sweep that cannot be compared (`compare_scales`).
    """
    values, base, alpha = results.final(), results.base, results.alpha
    compared = compare_variants(
        values,
        base,
        results.seeds,
        level=LEVEL,
        alpha=0.05 if alpha is None else alpha,
        lower_is_better=results.lower_is_better,
    )
    text = results.content.get("claim")
    claim = None if text is None else Claim.parse(text)
    documents, unit = compare_documents(results, LEVEL)
    notes = [*_missing_notes(results), *_seed_notes(results), *results.notes]
    notes += filter(None, [too_few_documents(results, LEVEL)])
    rows = [
        _row(
            results,
            name,
            compared.get(name),
            documents.get(name),
            None if claim is None else _judge(results, claim, name),
        )
        for name in values
    ]
    if unit and (lost := [name for name in values if name not in documents and name != results.base]):
        notes.append(
            f"No difference over documents of {', '.join(lost)}: not all seeds were measured on the same text."
        )
    base_mean = next(row.mean for row in rows if row.is_base)
    sign = 1 if results.lower_is_better else -1
    rows.sort(key=lambda row: (row.mean is None, _diverged(row), sign * _against(row, base_mean)))
    finite = {name: {s: v for s, v in group.items() if math.isfinite(v)} for name, group in values.items()}
    return Analysis(
        results=results,
        rows=rows,
        claim=claim,
        noise=seed_noise(finite),
        shown=_smallest_shown(results, compared.values()),
        document_unit=unit,
        decisions=[compare_scales(results, other, LEVEL) for other in larger],
        notes=notes,
    )


def _row(
    results: SweepResults,
    name: str,
    comparison: Comparison | None,
    documents: Difference | None,
    judgement: Judgement | None,
) -> Row:
    variant, is_base = results.variants[name], name == results.base
    values = variant.final(results.metric)
    finite = [value for value in values.values() if math.isfinite(value)]
    return Row(
        variant=variant,
        is_base=is_base,
        values=values,
        mean=float(np.mean(finite)) if finite else None,
        deviation=float(np.std(finite, ddof=1)) if len(finite) > 1 else None,
        comparison=comparison,
        documents=documents,
        speedups={} if is_base else {cost: _speedup(results, name, cost) for cost in COSTS},
        judgement=judgement,
    )


def _against(row: Row, base_mean: float | None) -> float:
    """A row's place: its difference to the base over common seeds; of the means where there is none; 0 of the base."""
    if row.comparison is not None and row.comparison.difference is not None:
        return row.comparison.difference.mean
    return (row.mean or 0.0) - (base_mean or 0.0)


def _diverged(row: Row) -> bool:
    return any(not math.isfinite(value) for value in row.values.values())


def _speedup(results: SweepResults, name: str, cost: str) -> Speedup | str:
    """The speed-up of a variant, or the reason why there is none."""
    if not results.lower_is_better:
        return "only of a loss"
    for who in (results.base, name):
        if missing := [s for s in results.seeds if s not in results.variants[who].final(results.metric)]:
            return f"{who} has no final value for seed {missing[0]}"
    if cost == "seconds" and any(run.joint for run in results.runs()):
        return "trained jointly"
    base, other = _curves(results, results.base), _curves(results, name)
    seeds, every = set(results.seeds), (*base.values(), *other.values())
    if base.keys() != seeds or other.keys() != seeds or any(curve.source == "training" for curve in every):
        return "too few evaluations during training"
    try:
        points = [{seed: (curve.cost(cost), curve.values) for seed, curve in group.items()} for group in (base, other)]
        return speedup(points[0], points[1], level=LEVEL)
    except UserError as error:
        return str(error)


def _curves(results: SweepResults, name: str) -> dict[int, Curve]:
    return {seed: run.curve for seed, run in results.variants[name].runs.items() if run.curve is not None}


def _judge(results: SweepResults, claim: Claim, name: str) -> Judgement | None:
    """The claim judged of a variant; a claim about the "difference" is that to the base with the same seed."""
    if claim.metric != "difference":
        return claim.judge(results.variants[name].final(claim.metric), results.seeds)
    if name == results.base:
        return None
    values, base = results.final()[name], results.final()[results.base]
    return claim.judge({seed: values[seed] - base[seed] for seed in values if seed in base}, results.seeds)


def _smallest_shown(results: SweepResults, compared: Iterable[Comparison]) -> float | None:
    found = [each.difference.deviation for each in compared if each.difference is not None]
    if not found or len(results.seeds) < 2 or results.alpha is None:
        return None
    alpha = results.alpha / max(1, len(results.variants) - 1)
    return float(np.median(found)) * smallest_shown(len(results.seeds), alpha)


def false_rate(results: SweepResults) -> float | None:
    """The share of sweeps without any difference in which a verdict of better or worse stands; None without verdicts.

    Each time that seeds were added after results the variants are judged once more, so the rates add up.
    """
    return None if results.alpha is None else min(1.0, results.alpha * (1 + len(results.earlier_seeds)))


def _seed_notes(results: SweepResults) -> list[str]:
    """A sentence if seeds were added when results were there."""
    rate = false_rate(results)
    if not results.earlier_seeds or results.alpha is None or rate is None:
        return []
    steps = ", ".join(f"{len(seeds)}" for seeds in results.earlier_seeds)
    return [
        f"Seeds were added after results were there ({steps}, now {len(results.seeds)} seeds), so that variants are "
        f"judged more than once: with no difference anywhere, a verdict stands in at most {100 * rate:.3g}% of such "
        f"sweeps instead of {100 * results.alpha:.3g}%. A sweep of its own with all seeds declared avoids this."
    ]


def _missing_notes(results: SweepResults) -> list[str]:
    """A sentence for each state of the runs that have no final value, or one that is not finite."""
    groups: dict[str, list[RunResult]] = {}
    for run in results.runs():
        if run.state != "finished":
            groups.setdefault(run.state, []).append(run)
    total = len(results.runs())
    notes = []
    for state, runs in groups.items():
        named = ", ".join(f"{run.variant} seed {run.seed}" for run in runs[:8])
        more = f" and {len(runs) - 8} more" if len(runs) > 8 else ""
        notes.append(f"{len(runs)} of {total} runs: {state} ({named}{more}). They are not in the means below.")
    return notes
