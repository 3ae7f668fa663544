"""The difference of two variants over seeds: its mean, its interval and its p-value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy import special

from model.errors import UserError

Design = Literal["paired", "unpaired", "documents"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The other variant minus the base.

    Attributes:
      mean: the estimate, in the unit of the values.
      low: the lower end of the interval.
      high: the upper end of the interval.
      level: the share of intervals made in this way that hold the true difference, such as 0.95.
      n: the number of pairs of seeds; of seeds in the smaller group where they do not pair; of documents.
      p_value: two-sided, of the hypothesis that there is no difference.
      deviation: the standard deviation of one unit: of the difference of a pair of seeds or of a document; the root
        mean square of both groups' deviations where seeds do not pair.
      design: the units: "paired" and "unpaired" seeds, or "documents".
    """

    mean: float
    low: float
    high: float
    level: float
    n: int
    p_value: float
    deviation: float
    design: Design = "paired"


def paired(base: Mapping[int, float], other: Mapping[int, float], level: float = 0.95) -> Difference:
    """The mean difference over the seeds that both have, with the interval of the paired t test.

    Two runs of one seed see the same batches, so that what the seed does to both cancels. The interval is exact where
    the differences are normal; with 3 seeds of skewed differences it is close.

    Args:
      base: the value of each seed, such as a final loss.
      other: the same of the variant; seeds that only one of the two has are left out.
      level: of the interval.

    Raises:
      UserError: for fewer than two common seeds, and for a value that is not finite.
    """
    seeds = sorted(base.keys() & other.keys())
    if len(seeds) < 2:
        raise UserError(
            f"expected at least two seeds that both variants have, got {_listed(seeds)} (base: "
            f"{_listed(sorted(base))}; other: {_listed(sorted(other))}): run more seeds, or compare groups of "
            "different seeds as unpaired"
        )
    check_finite({seed: value for values in (base, other) for seed, value in values.items() if seed in seeds})
    return of_differences([other[seed] - base[seed] for seed in seeds], level)


def of_differences(differences: Sequence[float], level: float = 0.95) -> Difference:
    """`paired`, of the differences themselves."""
    check_level(level)
    values = np.asarray(differences, np.float64)
    deviation = _deviation(values)
    return _from_t(
        float(values.mean()), deviation, deviation / math.sqrt(len(values)), len(values) - 1, len(values), level
    )


def unpaired(base: Mapping[int, float], other: Mapping[int, float], level: float = 0.95) -> Difference:
    """The difference of two means whose seeds do not pair (Welch's t test, variances may differ).

    Raises UserError for fewer than two seeds on one side, and for a value that is not finite.
    """
    check_level(level)
    for name, values in (("base", base), ("other variant", other)):
        if len(values) < 2:
            raise UserError(f"expected at least two seeds of the {name}, got {_listed(sorted(values))}: run more seeds")
        check_finite(values)
    before, after = (np.array([values[seed] for seed in sorted(values)], np.float64) for values in (base, other))
    parts = [_deviation(values) ** 2 / len(values) for values in (before, after)]  # of the variance of the difference
    weights = [part**2 / (len(values) - 1) for part, values in zip(parts, (before, after), strict=True)]
    freedom = sum(parts) ** 2 / sum(weights) if sum(weights) else 1.0
    deviation = math.sqrt((_deviation(before) ** 2 + _deviation(after) ** 2) / 2)
    mean, n = float(after.mean() - before.mean()), min(len(before), len(after))
    return _from_t(mean, deviation, math.sqrt(sum(parts)), freedom, n, level, design="unpaired")


def _from_t(
    mean: float, deviation: float, error: float, freedom: float, n: int, level: float, design: Design = "paired"
) -> Difference:
    """The difference whose distance from the truth, in standard errors, is Student's t of these degrees of freedom."""
    if error:
        half = float(special.stdtrit(freedom, (1 + level) / 2)) * error
        p_value = 2 * float(special.stdtr(freedom, -abs(mean) / error))
    else:  # equal differences, such as those of a change that does nothing
        half, p_value = 0.0, 0.0 if mean else 1.0
    return Difference(
        mean=mean,
        low=mean - half,
        high=mean + half,
        level=level,
        n=n,
        p_value=p_value,
        deviation=deviation,
        design=design,
    )


def _deviation(values: np.ndarray) -> float:
    """The standard deviation; 0 where the values differ only by rounding."""
    deviation = float(values.std(ddof=1))
    return 0.0 if deviation <= 1e-14 * np.abs(values).max() else deviation


def seed_noise(values: Mapping[str, Mapping[int, float]]) -> float | None:
    """The standard deviation over seeds within a variant, pooled over the variants; None without two seeds of one.

    Args:
      values: variant -> seed -> value. Values that are not finite are left out.
    """
    groups = [np.array([v for v in seeds.values() if math.isfinite(v)], np.float64) for seeds in values.values()]
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups if len(group))
    freedom = sum(len(group) - 1 for group in groups if len(group))
    return math.sqrt(squares / freedom) if freedom else None


def check_finite(values: Mapping[int, float]) -> None:
    """Raises UserError if a value is not finite, naming its seed."""
    broken = [seed for seed, value in values.items() if not math.isfinite(value)]
    if broken:
        raise UserError(
            f"seed {broken[0]} has the value {values[broken[0]]}; expected finite numbers: a run that diverged has no "
            "difference; count how often that happens instead of leaving it out"
        )


def check_level(level: float) -> None:
    """Raises UserError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise UserError(f"the level of an interval is {level}; expected a share between 0 and 1, such as 0.95")


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"
