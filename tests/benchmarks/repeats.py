"""What is measured several times: in turns and over seeds, with its spread."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple


class Spread(NamedTuple):
    """The middle of some numbers between two others; f"{spread:.2f}" is 1.05 [0.98, 1.10]."""

    low: float
    middle: float
    high: float

    def __format__(self, form: str) -> str:
        return f"{self.middle:{form}} [{self.low:{form}}, {self.high:{form}}]"


def extremes(values: Sequence[float]) -> Spread:
    """The median between the least and the most."""
    return Spread(min(values), statistics.median(values), max(values))


def quartiles(values: Sequence[float], method: Literal["inclusive", "exclusive"]) -> Spread:
    """The median between the quartiles of `statistics.quantiles`; of one number that number."""
    return Spread(*(statistics.quantiles(values, n=4, method=method) if len(values) > 1 else [values[0]] * 3))


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    """Ours over theirs, round by round: what slows the machine in a round slows both."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


class Timed(NamedTuple):
    """The seconds that some work took, by the clock and of processors, and its result."""

    seconds: float
    processor: float
    result: Any


def timed(work: Callable[[], Any]) -> Timed:
    """Does the work."""
    began, processor_began = time.perf_counter(), time.process_time()
    result = work()
    return Timed(time.perf_counter() - began, time.process_time() - processor_began, result)


def over_seeds(seeds: Iterable[int], measure: Callable[[int], tuple[float, float]]) -> None:
    """Prints nanoGPT's estimate and the loss of the whole split for every seed, then mean and spread of each."""
    rows = []
    for seed in seeds:
        rows.append(measure(seed))
        print(f"seed {seed}: 20 batches {rows[-1][0]:.4f}, whole split {rows[-1][1]:.4f}", flush=True)
    for name, values in zip(("20 batches", "whole split"), zip(*rows, strict=True), strict=True):
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"{name}: mean {statistics.mean(values):.4f}, standard deviation {spread:.4f}, n={len(values)}")
