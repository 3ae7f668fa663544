"""What both loss benchmarks do: measure seed after seed, and print one table."""

import statistics
from collections.abc import Callable, Iterable


def over_seeds(seeds: Iterable[int], measure: Callable[[int], tuple[float, float]]) -> None:
    """Prints nanoGPT's estimate and the loss of the whole split for every seed, then mean and spread of each."""
    rows = []
    for seed in seeds:
        rows.append(measure(seed))
        print(f"seed {seed}: 20 batches {rows[-1][0]:.4f}, whole split {rows[-1][1]:.4f}", flush=True)
    for name, values in zip(("20 batches", "whole split"), zip(*rows, strict=True), strict=True):
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"{name}: mean {statistics.mean(values):.4f}, standard deviation {spread:.4f}, n={len(values)}")
