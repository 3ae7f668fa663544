"""Draws of known truth for the tests of statistics, and how often intervals hold it."""

import numpy as np

DRAWS = 1000
# Noise with mean 0 by name: normal, heavy-tailed, without tails, and skewed.
NOISE = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "Laplace": lambda rng, shape: rng.laplace(size=shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, size=shape),
    "Gumbel": lambda rng, shape: rng.gumbel(size=shape) - np.euler_gamma,
}


def coverage(intervals, truth):
    """The share of intervals (with `low` and `high`) that hold the truth."""
    return np.mean([interval.low <= truth <= interval.high for interval in intervals])


def by_seed(values):
    return dict(enumerate(map(float, values)))
