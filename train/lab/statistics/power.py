"""The power of t tests over seeds: how many seeds show a difference, and the difference that these seeds show."""

from __future__ import annotations

import math

from scipy import optimize, special

from train.lab.statistics.differences import Design

POWER = 0.8  # the usual chance of showing a difference that is there
MOST_SEEDS = 10_000  # searches end here


def power(effect: float, n: int, alpha: float = 0.05, design: Design = "paired") -> float:
    """The chance that a two-sided t test of level alpha finds a difference, with its true sign.

    Args:
      effect: the size of the true difference in deviations (`Difference.deviation`).
      n: pairs of seeds, or seeds on each side if they do not pair.
      alpha: the level.
      design: "paired" or "unpaired".
    """
    if n < 2:
        return 0.0
    pairs = design != "unpaired"
    freedom = n - 1 if pairs else 2 * (n - 1)
    shift = abs(effect) * math.sqrt(n if pairs else n / 2)
    threshold = float(special.stdtrit(freedom, 1 - alpha / 2))
    miss = float(special.nctdtr(freedom, shift, threshold))
    return 1.0 if math.isnan(miss) else 1.0 - miss  # SciPy returns NaN for some chances below 1e-80


def seeds_to_show(effect: float, alpha: float = 0.05, design: Design = "paired", chance: float = POWER) -> int | None:
    """The smallest number of seeds whose `power` is at least `chance`; None if it exceeds `MOST_SEEDS`."""
    if effect == 0 or power(effect, MOST_SEEDS, alpha, design) < chance:
        return None
    low, high = 1, 2
    while power(effect, high, alpha, design) < chance:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, alpha, design) >= chance else (middle, high)
    return high


def smallest_shown(n: int, alpha: float = 0.05, design: Design = "paired", chance: float = POWER) -> float:
    """The smallest true difference, in deviations, that n seeds show with this chance."""
    return float(optimize.brentq(lambda effect: power(effect, n, alpha, design) - chance, 1e-6, 1e6, xtol=1e-9))
