"""All variants of a sweep against its base, judged once, when the seeds that were declared are done."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from train.lab.statistics.corrections import holm
from train.lab.statistics.differences import Difference, paired, seed_noise
from train.lab.statistics.verdicts import Verdict, not_judged, verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A variant against the base.

    Attributes:
      difference: over the seeds that both have so far; None if these are fewer than two.
      adjusted_p: its p-value, adjusted for the number of variants; None if the variant is not judged.
      verdict: see `Verdict`.
      effect: the difference in standard deviations over seeds; None where either is unknown.
    """

    difference: Difference | None
    adjusted_p: float | None
    verdict: Verdict
    effect: float | None


def compare_variants(
    values: Mapping[str, Mapping[int, float]],
    base: str,
    seeds: Sequence[int],
    *,
    level: float = 0.95,
    alpha: float = 0.05,
    lower_is_better: bool = True,
) -> dict[str, Comparison]:
    """Compares every variant with the base over paired seeds.

    A verdict takes all declared seeds of the variant and of the base, so that a glance at a half-finished sweep cannot
    end it at a good draw: the chance that any verdict is wrong when nothing differs is at most alpha, at whatever
    moments one looks. The correction counts every declared variant, finished or not.

    Args:
      values: variant -> seed -> final value, of the runs that are done; NaN or infinity if a run diverged. Every
        declared variant is there, the base included.
      base: the name of the base.
      seeds: the declared seeds.
      level: of the intervals, which are those of one comparison.
      alpha: the chance of one wrong verdict or more, of the whole sweep.
      lower_is_better: as for a loss.

    Returns:
      A comparison for each variant but the base, in the order of `values`.
    """
    names = [name for name in values if name != base]
    finite = {name: {s: v for s, v in values[name].items() if s in seeds and math.isfinite(v)} for name in values}
    noise = seed_noise(finite)
    differences = {
        name: paired(finite[base], finite[name], level)
        for name in names
        if len(finite[base].keys() & finite[name].keys()) >= 2
    }
    reasons = {name: _missing(name, values, base, seeds) for name in names}
    p_values = [1.0 if reasons[name] else differences[name].p_value for name in names]
    adjusted = dict(zip(names, map(float, holm(p_values)), strict=True))

    def comparison(name: str) -> Comparison:
        difference, reason = differences.get(name), reasons[name]
        effect = difference.mean / noise if difference is not None and noise else None
        if reason or difference is None:
            return Comparison(difference=difference, adjusted_p=None, verdict=not_judged(reason), effect=effect)
        judged = verdict(difference, adjusted[name], alpha, lower_is_better, comparisons=len(names))
        return Comparison(difference=difference, adjusted_p=adjusted[name], verdict=judged, effect=effect)

    return {name: comparison(name) for name in names}


def _missing(name: str, values: Mapping[str, Mapping[int, float]], base: str, seeds: Sequence[int]) -> str:
    """Why a variant is not judged, in words; empty if it is."""
    if len(seeds) < 2:
        return "a verdict takes at least two seeds"
    for who in (base, name):
        owner = "the base has" if who == base else "it has"
        count = f"{len(seeds)} declared seeds"
        if missing := [seed for seed in seeds if seed not in values[who]]:
            return f"{owner} no final value for {_named(missing)} of {count}"
        if diverged := [seed for seed in seeds if not math.isfinite(values[who][seed])]:
            return f"{owner} no finite value for {_named(diverged)} of {count}"
    return ""


def _named(seeds: list[int]) -> str:
    return f"seed{'s' if seeds[1:] else ''} {', '.join(map(str, seeds))}"
