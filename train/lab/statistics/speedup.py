"""The speed-up to equal loss: how many times fewer steps, tokens, FLOPs or seconds a variant takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from model.errors import UserError
from train.lab.statistics.differences import of_differences

Curve = tuple[ArrayLike, ArrayLike]  # (cost so far, ascending; loss)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speedup:
    """The cost of the base over the cost of the variant at equal loss; above 1 if the variant is faster.

    Attributes:
      ratio: the geometric mean over seeds.
      low: the lower end of its interval.
      high: the upper end.
      level: of the interval.
      n: the number of pairs of seeds.
    """

    ratio: float
    low: float
    high: float
    level: float
    n: int


def speedup(base: Mapping[int, Curve], other: Mapping[int, Curve], level: float = 0.95) -> Speedup:
    """The speed-up of a variant over the base to the lowest loss that both reach, from the curves of both.

    Of each seed, the target is the higher of the two final losses, so that the curves are read where both exist. The
    interval is that of the paired t test of the logarithms of the ratios: a bootstrap of 3 or 5 seeds is too narrow.
    With a schedule that lowers the rate towards the last step, a curve is above that of a run which was planned to end
    at that point, so the ratio errs towards 1.

    Args:
      base: seed -> curve. The cost is positive and counts steps, tokens, FLOPs or seconds; evaluations of a fixed text
        serve better than the training loss, and points that are not finite are left out.
      other: the same of the variant; seeds that only one of the two has are left out.
      level: of the interval.

    Raises:
      UserError: for fewer than two common seeds, a curve without two points of positive cost, and curves of which one
        lies above the other's first point, so that no loss is common to both.
    """
    seeds = sorted(base.keys() & other.keys())
    if len(seeds) < 2:
        raise UserError(
            f"expected the curves of at least two seeds that both variants have, got {len(seeds)}: run more seeds"
        )
    logs = of_differences([log_ratio(base[seed], other[seed], seed) for seed in seeds], level)
    ratio, low, high = (_exponential(value) for value in (logs.mean, logs.low, logs.high))
    return Speedup(ratio=ratio, low=low, high=high, level=level, n=len(seeds))


def log_ratio(base: Curve, other: Curve, seed: int = 0) -> float:
    """The logarithm of the speed-up of one seed; see `speedup`."""
    (base_cost, base_loss), (cost, loss) = _falling(base, seed), _falling(other, seed)
    target = max(base_loss[-1], loss[-1])
    if target > min(base_loss[0], loss[0]):
        raise UserError(
            f"the curves of seed {seed} have no loss in common: one ends at {target:.4g}, above the first point of "
            "the other; evaluate more often"
        )
    return _log_cost_at(target, base_cost, base_loss) - _log_cost_at(target, cost, loss)


def _falling(curve: Curve, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cost and loss of a curve, the loss replaced by the nearest losses (least squares) that never rise.

    The running minimum would follow the luckiest evaluations; this follows their mean.
    """
    cost, loss = (np.asarray(values, np.float64) for values in curve)
    keep = np.isfinite(loss) & (cost > 0)
    cost, loss = cost[keep], loss[keep]
    if len(cost) < 2:
        raise UserError(
            f"the curve of seed {seed} has {len(cost)} points of positive cost and finite loss; expected at least two: "
            "evaluate during training (evaluation.every)"
        )
    return cost, optimize.isotonic_regression(loss, increasing=False).x


def _log_cost_at(target: float, cost: np.ndarray, loss: np.ndarray) -> float:
    """The logarithm of the cost at which a falling curve reaches a loss; a level stretch counts at its middle."""
    levels, stretch = np.unique(loss, return_inverse=True)
    middles = np.bincount(stretch, np.log(cost)) / np.bincount(stretch)
    return float(np.interp(target, levels, middles))


def _exponential(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
