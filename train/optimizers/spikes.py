"""Spikes: steps whose loss or gradient norm lies far above its running median, and how many of them a run keeps.

The median and the deviation are those of the last lines of metrics.jsonl before the step. A run that continues reads
these lines back, so it finds the same spikes as a run that was never stopped. Every step is compared, also one without
a line. The median absolute deviation, times 1.4826, estimates the standard deviation of normal noise and ignores
earlier spikes (Rousseeuw and Croux 1993, "Alternatives to the Median Absolute Deviation", section 1).
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

WATCHED = ("loss", "grad_norm")
_NORMAL = 1.4826  # the standard deviation of normal noise, in median absolute deviations
_LEAST = 0.01  # a deviation is at least this share of the median: losses that do not vary have no other unit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spikes:
    """Which steps are spikes, and what is kept of them. Loss and gradient norm that are not finite always are.

    Attributes:
      deviations: a spike lies more than this many deviations above the median.
      window: lines of metrics.jsonl for median and deviation; until there are so many, no finite value is a spike. The
        `window` steps after a spike belong to it.
      keep: the number of latest spikes that RUN/spikes describes.
      states: for so many of these, the latest ones, the last checkpoint before the step is kept too, so that
        launch.replay needs few steps. 0 keeps no further checkpoint.
    """

    deviations: float = 10.0
    window: int = 32
    keep: int = 16
    states: int = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.deviations <= 0:
            yield "deviations", f"must be above 0, got {self.deviations}"
        if self.window < 3:
            yield "window", f"must be at least 3, for a median and a deviation, got {self.window}"
        if self.keep < 1:
            yield "keep", f"must be at least 1, or spikes=None for no spikes, got {self.keep}"
        if not 0 <= self.states <= max(self.keep, 1):
            yield "states", f"must be from 0 to spikes.keep={self.keep}, got {self.states}"


@dataclasses.dataclass(frozen=True)
class Height:
    """How far a value lies above the values before it; `deviations` is infinite for a value that is not finite.

    `median` and `deviation` are None where there were too few lines.
    """

    value: float
    median: float | None
    deviation: float | None

    @property
    def deviations(self) -> float:
        """The distance to the median in deviations; 0 where that is not known."""
        if not math.isfinite(self.value):
            return math.inf
        if self.median is None or not self.deviation:
            return 0.0
        return (self.value - self.median) / self.deviation


class SpikeDetector:
    """Finds spikes among steps that come in order.

    Attributes:
      last: the last step that was a spike; None before any.
    """

    def __init__(self, option: Spikes) -> None:
        """Args: the option."""
        self.option = option
        self.last: int | None = None
        self._lines: dict[str, collections.deque[float]] = {
            name: collections.deque(maxlen=option.window) for name in WATCHED
        }
        self._usual: dict[str, tuple[float, float] | None] = {}  # of the lines, until one is added

    def add_line(self, values: Mapping[str, Any]) -> None:
        """Takes the values of a line of metrics.jsonl; those that are not finite tell nothing about usual values."""
        for name, lines in self._lines.items():
            value = values.get(name)
            if value is not None and math.isfinite(value):
                lines.append(float(value))
        self._usual.clear()

    def spike_at(self, step: int, values: Mapping[str, Any]) -> dict[str, Height] | None:
        """The heights of loss and gradient norm if this step begins a spike; None for any other step."""
        heights = {name: self._height(name, float(values[name])) for name in WATCHED if name in values}
        if not any(height.deviations > self.option.deviations for height in heights.values()):
            return None
        if self.last is not None and step - self.last <= self.option.window:
            return None
        self.last = step
        return heights

    def _height(self, name: str, value: float) -> Height:
        if name not in self._usual:
            self._usual[name] = self._median_and_deviation(self._lines[name])
        usual = self._usual[name]
        return Height(value, None, None) if usual is None else Height(value, *usual)

    def _median_and_deviation(self, lines: collections.deque[float]) -> tuple[float, float] | None:
        """Of the lines; None while they are too few."""
        if len(lines) < self.option.window:
            return None
        median = statistics.median(lines)
        deviation = _NORMAL * statistics.median(abs(x - median) for x in lines)
        return median, max(deviation, _LEAST * abs(median))
