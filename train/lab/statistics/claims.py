"""A claim that is fixed before the runs, such as "loss <= 3.28, p < 0.001", and judged as it is written."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from typing import Literal, Self

import numpy as np
from scipy import special

from model.errors import UserError
from train.lab.statistics.verdicts import equals_p

_FORM = re.compile(
    r"\s*(?P<metric>[A-Za-z_][\w./-]*)\s*(?P<sign>[<>]=?)\s*(?P<bound>\S+)\s*,\s*p\s*<=?\s*(?P<p>\S+)\s*"
)
_EXAMPLE = 'expected a claim such as "loss <= 3.28, p < 0.001": a metric, <= or >=, a number, and p < a level'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """A claim judged.

    Attributes:
      word: "holds", "not shown" by these runs, or "not judged": runs are missing.
      p_value: one-sided, of the hypothesis that the claim is false; None if it is not judged.
      mean: of the values; None if it is not judged.
      n: the number of values.
      text: for a report.
    """

    word: Literal["holds", "not shown", "not judged"]
    p_value: float | None
    mean: float | None
    n: int
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """The mean over seeds of a metric lies on one side of a bound.

    Attributes:
      metric: its name, such as "loss"; "difference" is the difference to the base of the same seed.
      at_most: whether it is claimed to be at most the bound, otherwise at least.
      bound: the bound.
      alpha: the p-value below which the claim holds.
    """

    metric: str
    at_most: bool
    bound: float
    alpha: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads "METRIC <= NUMBER, p < LEVEL" (or >=). Raises UserError for anything else."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise UserError(f"the claim {text!r} is not understood; {_EXAMPLE}")
        try:
            bound, alpha = float(match["bound"]), float(match["p"])
        except ValueError:
            raise UserError(f"the claim {text!r} holds no number where one belongs; {_EXAMPLE}") from None
        if not math.isfinite(bound):
            raise UserError(f"the claim {text!r} has the bound {bound}; expected a finite number")
        if not 0 < alpha < 1:
            raise UserError(f"the claim {text!r} has the level {alpha}; expected a p-value between 0 and 1")
        return cls(metric=match["metric"], at_most=match["sign"][0] == "<", bound=bound, alpha=alpha)

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.at_most else '>='} {self.bound:.15g}, p < {self.alpha:.15g}"

    def judge(self, values: Mapping[int, float], declared: Collection[int] | None = None) -> Judgement:
        """Judges the claim with a one-sided t test of the mean against the bound.

        It is judged once, over exactly the seeds that were declared: with some of them missing it is not judged, so
        that nobody stops at a good draw, and neither is it with seeds that were added later.

        Args:
          values: seed -> final value, of the runs that are complete.
          declared: the seeds that were declared before the runs; those of `values` if None.
        """
        seeds = set(values if declared is None else declared)
        if missing := sorted(seeds - values.keys()):
            return self._not_judged(len(values), f"of {len(seeds)} declared seeds {_named(missing)} no final value")
        if added := sorted(values.keys() - seeds):
            return self._not_judged(len(values), f"{_named(added)} a value and was not declared")
        if len(seeds) < 2:
            return self._not_judged(len(values), f"a p-value takes at least two seeds, and {len(seeds)} was declared")
        array = np.array([values[seed] for seed in sorted(seeds)], np.float64)
        if not np.all(np.isfinite(array)):
            broken = [seed for seed in sorted(seeds) if not math.isfinite(values[seed])]
            text = f"not shown: the value of seed {broken[0]} is {values[broken[0]]}"
            return Judgement(word="not shown", p_value=1.0, mean=None, n=len(array), text=f"{text}, so no mean exists")
        p_value, mean = self._p_value(array), float(array.mean())
        word: Literal["holds", "not shown"] = "holds" if p_value < self.alpha else "not shown"
        text = f"{word}: mean {mean:.5g} over {len(array)} seeds, one-sided p {equals_p(p_value)}"
        return Judgement(word=word, p_value=p_value, mean=mean, n=len(array), text=text)

    def _p_value(self, values: np.ndarray) -> float:
        if np.ptp(values) <= 1e-14 * np.abs(values).max():  # equal values have no deviation to divide by
            beyond = values[0] < self.bound if self.at_most else values[0] > self.bound
            return 0.0 if beyond else 1.0
        t = (values.mean() - self.bound) / (values.std(ddof=1) / math.sqrt(len(values)))
        return float(special.stdtr(len(values) - 1, t if self.at_most else -t))

    def _not_judged(self, n: int, reason: str) -> Judgement:
        return Judgement(word="not judged", p_value=None, mean=None, n=n, text=f"not judged: {reason}")


def _named(seeds: list[int]) -> str:
    one = len(seeds) == 1
    return f"seed{'' if one else 's'} {', '.join(map(str, seeds))} {'has' if one else 'have'}"
