"""How often the better of two variants in one sweep is the better one in a sweep of larger models."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping

import numpy as np

from model.errors import UserError
from train.lab.results import SweepResults
from train.lab.statistics.decisions import DecisionAccuracy, decision_accuracy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decisions:
    """The order of the variants of a sweep, compared with their order in a larger one.

    Attributes:
      larger: the name of the larger sweep.
      sizes: the parameters of the base in both; None where they are not known.
      accuracy: the share of pairs in the same order, with its interval.
      reversed: the pairs in the other order, the better one in the larger sweep first.
      left_out: variants that are not in both sweeps with all of their seeds.
    """

    larger: str
    sizes: tuple[int | None, int | None]
    accuracy: DecisionAccuracy
    reversed: list[tuple[str, str]]
    left_out: list[str]


def compare_scales(small: SweepResults, large: SweepResults, level: float = 0.95) -> Decisions:
    """Compares the orders of the variants that both sweeps have by name, by their means over seeds.

    Only variants whose declared seeds are all at their end count, in both. Raises UserError for sweeps of different
    metrics, and for fewer than three such variants.
    """
    if small.metric != large.metric:
        raise UserError(
            f"{small.folder} compares {small.metric!r} and {large.folder} compares {large.metric!r}; expected two "
            "sweeps of one metric"
        )
    before, after = _complete(small), _complete(large)
    common = before.keys() & after.keys()
    if len(common) < 3:
        both = ", ".join(sorted(common)) or "no variant"
        raise UserError(
            f"{small.folder} and {large.folder} have {both} in common with all seeds at their ends; expected at "
            "least three, since one pair tells nothing about the next"
        )
    accuracy = decision_accuracy(before, after, level)
    ranks = [{name: float(np.mean(list(group[name].values()))) for name in common} for group in (before, after)]
    better = 1 if small.lower_is_better else -1
    pairs = itertools.permutations(sorted(common), 2)
    return Decisions(
        larger=large.name if large.name != small.name else str(large.folder),
        sizes=(_parameters(small), _parameters(large)),
        accuracy=accuracy,
        reversed=[
            (a, b) for a, b in pairs if better * (ranks[1][b] - ranks[1][a]) > 0 > better * (ranks[0][b] - ranks[0][a])
        ],
        left_out=sorted((small.variants.keys() | large.variants.keys()) - common),
    )


def _complete(results: SweepResults) -> Mapping[str, Mapping[int, float]]:
    """The final values of the variants that have one for every declared seed."""
    return {
        name: values
        for name, values in results.final().items()
        if len(values) == len(results.seeds) and all(map(math.isfinite, values.values()))
    }


def _parameters(results: SweepResults) -> int | None:
    sizes = results.variants[results.base].sizes
    return None if sizes is None else sizes.parameters
