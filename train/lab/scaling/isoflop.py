"""Approach 2: for each budget of C a parabola of the loss in log N, whose vertex is N*; then a power law of C.

Hoffmann et al. 2022, section 3.2. It is biased: along a budget the loss is no parabola of log N unless alpha = beta, so
the vertex moves away from the optimum, more with sizes that spread wider or lie to one side of it. Where the fitted
surface is known, `bias` says by how much: it makes the same parabolas from losses without noise.
"""

import dataclasses

import numpy as np

from train.lab.scaling.points import Points, group_by_budget
from train.lab.scaling.surface import Compute, PowerLaw, Surface


@dataclasses.dataclass(frozen=True, eq=False)
class Parabola:
    """One budget.

    Attributes:
      flops: C, the geometric mean over its runs.
      runs: the indices of its runs.
      coefficients: loss = c0 (log N - m)^2 + c1 (log N - m) + c2.
      centre: m, the mean of log N.
    """

    flops: float
    runs: np.ndarray
    coefficients: np.ndarray
    centre: float

    @property
    def has_minimum(self) -> bool:
        """Whether the parabola opens upwards."""
        return bool(self.coefficients[0] > 0)

    @property
    def best_parameters(self) -> float:
        """N at the vertex."""
        return float(np.exp(self.centre - self.coefficients[1] / (2 * self.coefficients[0])))

    def loss(self, parameters: np.ndarray) -> np.ndarray:
        """The parabola."""
        values: np.ndarray = np.polyval(self.coefficients, np.log(parameters) - self.centre)
        return values

    def is_inside(self, points: Points) -> bool:
        """Whether the vertex lies between the smallest and the largest of the runs."""
        sizes = points.parameters[self.runs]
        return self.has_minimum and bool(sizes.min() <= self.best_parameters <= sizes.max())


@dataclasses.dataclass(frozen=True, eq=False)
class IsoFlop:
    """The parabolas, and N*(C) and D*(C) through their vertices; these are None with fewer than two vertices."""

    parabolas: list[Parabola]
    parameters: PowerLaw | None
    tokens: PowerLaw | None


def fit_isoflop(points: Points, compute: Compute) -> IsoFlop:
    """The parabolas of all budgets with at least three sizes; vertices outside the sizes of a budget are left out."""
    parabolas = []
    for runs in group_by_budget(points.flops):
        log_n = np.log(points.parameters[runs])
        if len(np.unique(np.round(log_n, 6))) >= 3:
            centre = float(log_n.mean())
            coefficients = np.polyfit(log_n - centre, points.loss[runs], 2)
            flops = float(np.exp(np.log(points.flops[runs]).mean()))
            parabolas.append(Parabola(flops, runs, coefficients, centre))
    used = [one for one in parabolas if one.is_inside(points)]
    if len(used) < 2:
        return IsoFlop(parabolas, None, None)
    budgets, best = np.array([one.flops for one in used]), np.array([one.best_parameters for one in used])
    return IsoFlop(parabolas, PowerLaw.through(budgets, best), PowerLaw.through(budgets, compute.tokens(budgets, best)))


def bias(points: Points, surface: Surface, compute: Compute, flops: float) -> float | None:
    """D* of approach 2 over the true D* at C, if the surface were the truth and losses had no noise, or None."""
    exact = fit_isoflop(points.with_loss(surface.loss(points.parameters, points.tokens)), compute)
    return None if exact.tokens is None else float(exact.tokens(flops) / surface.optimum(flops, compute)[1])
