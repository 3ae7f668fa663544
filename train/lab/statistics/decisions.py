"""Decision accuracy across scales: how often the better of two small variants is the better one at a large size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from scipy import special

from model.errors import UserError
from train.lab.statistics.differences import check_level


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecisionAccuracy:
    """The share of pairs of variants whose order at the small size is their order at the large one.

    Attributes:
      share: the estimate; a pair that is equal at one size counts a half.
      low: the lower end of its interval.
      high: the upper end.
      level: of the interval.
      pairs: the number of pairs.
      variants: the number of variants.
    """

    share: float
    low: float
    high: float
    level: float
    pairs: int
    variants: int


def decision_accuracy(
    small: Mapping[str, Mapping[int, float]], large: Mapping[str, Mapping[int, float]], level: float = 0.95
) -> DecisionAccuracy:
    """Compares the orders of the means over seeds (Magnusson et al. 2025, "DataDecide").

    The variants are taken as a sample of the changes that one might try, and the share is that of a new pair of such
    changes, decided by means over as many seeds as here. Pairs share variants, so they are not independent: the
    interval is Wilson's with the number of pairs replaced by the number of independent pairs that has the same
    variance, which is estimated by leaving out each variant in turn (the jackknife of a U-statistic). It is wider than
    it needs to be with fewer than ten variants.

    Args:
      small: variant -> seed -> value, at the small size.
      large: the same at the large size; variants that only one of the two has are left out.
      level: of the interval.

    Raises:
      UserError: for fewer than three common variants, and for values that are not finite.
    """
    check_level(level)
    names = sorted(small.keys() & large.keys())
    if len(names) < 3:
        raise UserError(
            f"expected at least three variants at both sizes, got {', '.join(names) or 'none'}: one pair tells nothing "
            "about the next"
        )
    before, after = (np.array([np.mean(list(group[name].values())) for name in names]) for group in (small, large))
    if not (np.all(np.isfinite(before)) and np.all(np.isfinite(after))):
        broken = next(name for name, *v in zip(names, before, after, strict=True) if not np.all(np.isfinite(v)))
        raise UserError(f"the variant {broken!r} has a value that is not finite; expected finite values")
    agree = _agreements(before, after)
    share, effective = _share(agree), _independent_pairs(agree)
    low, high = wilson(share, effective, level)
    count = len(names)
    return DecisionAccuracy(
        share=share, low=low, high=high, level=level, pairs=count * (count - 1) // 2, variants=count
    )


def _agreements(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(variants, variants) 1 where a pair has the same order twice, 0 where not, a half for a tie."""
    signs = np.sign(before[:, None] - before) * np.sign(after[:, None] - after)
    return (signs + 1) / 2 * ~np.eye(len(before), dtype=bool)


def _share(agree: np.ndarray) -> float:
    return float(agree.sum() / (len(agree) * (len(agree) - 1)))


def _independent_pairs(agree: np.ndarray) -> float:
    """The number of independent pairs whose share would have the variance of this one."""
    count = len(agree)
    share = _share(agree)
    pairs = count * (count - 1) / 2
    if not 0 < share < 1:
        return count / 2  # pairs without a common variant
    left_out = (agree.sum() - 2 * agree.sum(axis=1)) / ((count - 1) * (count - 2))
    variance = (count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum())
    return float(np.clip(share * (1 - share) / variance if variance else pairs, count / 2, pairs))


def wilson(share: float, n: float, level: float) -> tuple[float, float]:
    """Wilson's interval of a share of n."""
    z = float(special.ndtri((1 + level) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
