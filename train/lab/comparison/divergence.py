"""The first step at which the numbers of two runs differ, in which metric, and by how much."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

_NOT_NUMBERS = {"kind", "name", "step"}


@dataclasses.dataclass(frozen=True)
class MetricDifference:
    """A metric with different values in two lines of one step.

    Attributes:
      metric: its name; for an evaluation with the name of the text before it.
      step: the step.
      a, b: the values; None where the metric or the value is missing.
    """

    metric: str
    step: int
    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        """b - a."""
        return None if self.a is None or self.b is None else self.b - self.a

    @property
    def relative(self) -> float | None:
        """(b - a) / |a|."""
        return None if self.difference is None or not self.a else self.difference / abs(self.a)


@dataclasses.dataclass(frozen=True)
class Divergence:
    """Where two runs part.

    Attributes:
      common_steps: the number of steps of which both have a line of training.
      last_common_step: the last of them; None where there is none.
      first: for each metric that differs, the first step at which it does; the earliest first.
      last_equal_step: the last common step before that one; None where there is none.
    """

    common_steps: int
    last_common_step: int | None
    first: list[MetricDifference]
    last_equal_step: int | None


def divergence(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> Divergence:
    """Compares the lines of metrics.jsonl of two runs, to the bit; NaN equals NaN.

    Lines of training and evaluations of one text count; only those of steps that both have.
    """
    lines_a, lines_b = (_by_place(lines) for lines in (a, b))
    common = sorted(lines_a.keys() & lines_b.keys())
    steps = sorted({step for step, kind, _ in common if kind == "train"})
    first: dict[str, MetricDifference] = {}
    for place in common:
        for item in _differences(place, lines_a[place], lines_b[place]):
            first.setdefault(item.metric, item)
    parted = min((item.step for item in first.values()), default=None)
    equal = [step for step, _, _ in common if parted is None or step < parted]
    found = sorted(first.values(), key=lambda item: item.step)
    return Divergence(len(steps), max(steps, default=None), found, max(equal, default=None))


def _by_place(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str, str], Mapping[str, Any]]:
    """Lines by step, kind and name of the text."""
    return {(line["step"], str(line.get("kind")), str(line.get("name", ""))): line for line in lines}


def _differences(place: tuple[int, str, str], a: Mapping[str, Any], b: Mapping[str, Any]) -> list[MetricDifference]:
    step, kind, name = place
    prefix = "" if kind == "train" else f"{name or 'validation'} " if kind == "eval" else f"{kind} "
    names = [metric for metric in dict.fromkeys([*a, *b]) if metric not in _NOT_NUMBERS]
    pairs = [(metric, _number(a.get(metric)), _number(b.get(metric))) for metric in names]
    return [MetricDifference(prefix + metric, step, *values) for metric, *values in pairs if not _same(*values)]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))
