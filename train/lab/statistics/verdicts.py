"""Verdicts in words: better, worse, or not shown by these runs."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from train.lab.statistics.differences import Difference
from train.lab.statistics.power import MOST_SEEDS, POWER, seeds_to_show

Word = Literal["better", "worse", "not shown", "not judged"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the runs show about a variant.

    Attributes:
      word: "better", "worse", "not shown" by these runs, or "not judged": runs are missing.
      seeds_needed: the number of further seeds that would show the observed difference in 8 of 10 repetitions; None
        for a difference that is shown, and where no number up to `power.MOST_SEEDS` would.
      text: the word with its reason, for a table.
    """

    word: Word
    seeds_needed: int | None
    text: str


def verdict(
    difference: Difference,
    adjusted_p: float,
    alpha: float = 0.05,
    lower_is_better: bool = True,
    comparisons: int = 1,
) -> Verdict:
    """Judges a difference to the base.

    Judge once, when all seeds that were declared are done: a judgement after each further seed, until one is good,
    finds differences where there are none (`not_judged` is the verdict until then).

    Args:
      difference: the variant minus the base.
      adjusted_p: its p-value after a correction such as `corrections.holm`.
      alpha: the level; a difference is shown if `adjusted_p` is at most that.
      lower_is_better: as for a loss; False as for an accuracy.
      comparisons: the number of tests of the correction. The seeds needed are those of a test at alpha / comparisons,
        at the observed difference and deviation, which are themselves estimates: a guide, no promise.
    """
    if adjusted_p <= alpha:
        word: Word = "better" if (difference.mean < 0) == lower_is_better else "worse"
        return Verdict(word=word, seeds_needed=None, text=f"{word} (p {equals_p(adjusted_p)})")
    if difference.design == "documents":
        return Verdict(word="not shown", seeds_needed=None, text=f"not shown by these {difference.n:,} documents")
    by = f"not shown by these {difference.n} seeds"
    if difference.deviation == 0:
        return Verdict(word="not shown", seeds_needed=None, text=f"{by}: the results are equal")
    total = seeds_to_show(difference.mean / difference.deviation, alpha / comparisons, difference.design)
    if total is None:
        return Verdict(
            word="not shown", seeds_needed=None, text=f"{by}; a difference as small as this takes over {MOST_SEEDS:,}"
        )
    more = max(1, total - difference.n)
    return Verdict(
        word="not shown",
        seeds_needed=more,
        text=f"{by}; {more:,} more would show such a difference, in {POWER:.0%} of repetitions",
    )


def not_judged(reason: str) -> Verdict:
    """The verdict on a variant whose runs are not all there; `reason` names the runs that are missing."""
    return Verdict(word="not judged", seeds_needed=None, text=f"not judged: {reason}")


def format_p(p_value: float) -> str:
    """A p-value in two digits; small ones as a bound: 0.031, 0.0004, < 0.0001."""
    if math.isnan(p_value):
        return "not defined"
    if p_value < 1e-4:
        return "< 0.0001"
    return f"{p_value:.2g}" if p_value < 0.1 else f"{p_value:.2f}"


def equals_p(p_value: float) -> str:
    """The same after a "p": "= 0.031", "< 0.0001"."""
    text = format_p(p_value)
    return text if text.startswith("<") else f"= {text}"
