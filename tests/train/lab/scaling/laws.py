"""Runs whose law is known."""

import numpy as np

from train.lab.scaling.points import Points
from train.lab.scaling.surface import Surface

TRUTH = Surface(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.37)


def isoflop_points(budgets=3, sizes=5, spread=5.0, centre=1.0, noise=0.0, seed=0, truth=TRUTH):
    """Budgets from 1e18 to 1e20, sizes from 1/spread to spread times `centre` times the optimum, C = 6 N D."""
    n, d = [], []
    for flops in np.geomspace(1e18, 1e20, budgets):
        best, _ = truth.optimum(flops)
        for size in centre * best * np.geomspace(1 / spread, spread, sizes):
            n.append(size)
            d.append(flops / 6 / size)
    n, d = np.array(n), np.array(d)
    return Points.of(n, d, truth.loss(n, d) * np.exp(noise * np.random.default_rng(seed).normal(size=len(n))))
