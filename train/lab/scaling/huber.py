"""Approach 3: the surface with the least Huber loss of log L, from many starts.

Hoffmann et al. 2022, section 3.3 and appendix D.4: L-BFGS from a grid of 4,500 starts, delta = 1e-3. Besiroglu et al.
2024, "Chinchilla Scaling: A Replication Attempt": the sum over runs, not the mean, so that no optimiser stops early.
"""

import dataclasses
import itertools

import numpy as np

from model.errors import UserError
from train.lab.scaling.minimizer import minimize
from train.lab.scaling.points import Points
from train.lab.scaling.surface import Surface

DELTA = 1e-3
MIN_POINTS = 6  # one more than the law has numbers
_CHUNK = 256  # resamples at a time, whose arrays stay in a processor's cache
_KEPT_STARTS = 64  # of the grid, those of the lowest loss
# The grid of Hoffmann et al.: a = log A, b = log B, e = log E, alpha, beta.
_GRID = (
    (-1.0, -0.5, 0.0, 0.5, 1.0),
    (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
    (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
    (0.0, 0.5, 1.0, 1.5, 2.0),
    (0.0, 0.5, 1.0, 1.5, 2.0),
)


def fit_huber(points: Points, delta: float = DELTA) -> Surface:
    """The surface of the least sum of Huber losses of log L. Raises UserError for too few points, sizes or budgets."""
    check_points(points)
    law = _Law(points, delta)
    starts = law.centred(np.array(list(itertools.product(*_GRID))))
    values, _ = law(starts, np.zeros(len(starts), int))
    best = starts[np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable")[:_KEPT_STARTS]]
    found, values = minimize(law, best)
    return law.surface(_polished(law, found[np.argmin(values)]))


def refit(points: Points, start: Surface, weights: np.ndarray, loss: np.ndarray, delta: float = DELTA) -> Surface:
    """The surfaces of S resamples, fitted at once from one start.

    Args:
      points: the runs.
      start: where all fits start: the fit of the points themselves.
      weights: how often each run counts, [S, n] or [1, n].
      loss: the losses of the runs, [S, n] or [1, n].
      delta: of the Huber loss.
    """
    count, log_loss = max(len(weights), len(loss)), np.log(loss)
    e, a, b = (np.log(value) for value in (start.E, start.A, start.B))
    found = []
    for first in range(0, count, _CHUNK):
        own = range(count)[first : first + _CHUNK]
        law = _Law(points, delta, *(x if len(x) == 1 else x[own] for x in (weights, log_loss)))
        begin = law.centred(np.array([[e, a, b, start.alpha, start.beta]]))
        found.append(minimize(law, np.repeat(begin, len(own), axis=0))[0])
    return law.surface(np.concatenate(found))


def check_points(points: Points) -> None:
    """Raises UserError when five numbers cannot be fitted to the points."""
    if len(points) < MIN_POINTS:
        raise UserError(f"{len(points)} runs are too few for a law of five numbers; give at least {MIN_POINTS}")
    for name, values in (("parameters", points.parameters), ("tokens", points.tokens)):
        if len(np.unique(np.round(np.log(values), 6))) < 3:
            raise UserError(
                f"{len(np.unique(values))} value(s) of {name} cannot show a power of {name} above a constant; give "
                "runs of at least three"
            )


def _polished(law: "_Law", x: np.ndarray) -> np.ndarray:
    """The minimum next to a point, by L-BFGS to the precision of the machine; the point if that is no better."""
    from scipy.optimize import minimize as minimize_one

    row = np.zeros(1, int)

    def value_and_gradient(one: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = law(one[None], row)
        return float(value[0]), gradient[0]

    options = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-12}
    found = minimize_one(value_and_gradient, x, jac=True, method="L-BFGS-B", options=options)
    better: np.ndarray = found.x if found.fun <= law(x[None], row)[0][0] else x
    return better


@dataclasses.dataclass
class _Law:
    """The loss as a function of x = (e, a', b', alpha, beta), with the scales of A and B at the runs' mean log N and D.

    There a' hardly depends on alpha, so that few steps reach the minimum.
    """

    points: Points
    delta: float
    weights: np.ndarray
    log_loss: np.ndarray

    def __init__(
        self, points: Points, delta: float, weights: np.ndarray | None = None, log_loss: np.ndarray | None = None
    ) -> None:
        self.points, self.delta = points, delta
        self.weights = np.ones((1, len(points))) if weights is None else np.asarray(weights, np.float64)
        self.log_loss = np.log(points.loss)[None] if log_loss is None else log_loss
        log_n, log_d = np.log(points.parameters), np.log(points.tokens)
        self._mean_n, self._mean_d = log_n.mean(), log_d.mean()
        self._n, self._d = log_n - self._mean_n, log_d - self._mean_d

    def __call__(self, x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `minimizer.Objective`. The values are in units of delta, so that they are near the number of runs."""
        e, a, b, alpha, beta = (x[:, i, None] for i in range(5))
        weights = self.weights if len(self.weights) == 1 else self.weights[rows]
        target = self.log_loss if len(self.log_loss) == 1 else self.log_loss[rows]
        with np.errstate(over="ignore", invalid="ignore"):
            constant, of_n, of_d = np.exp(e), np.exp(a - alpha * self._n), np.exp(b - beta * self._d)
            total = constant + of_n + of_d
            residual = (np.log(total) - target) / self.delta
            slope = np.clip(residual, -1.0, 1.0)
            value = np.sum(weights * slope * (residual - slope / 2), axis=1)
            slope = weights * slope / total
            by_n, by_d = slope * of_n, slope * of_d
            gradient = np.stack(
                [np.sum(slope, axis=1) * constant[:, 0], by_n.sum(1), by_d.sum(1), -by_n @ self._n, -by_d @ self._d],
                axis=1,
            )
        return value, gradient

    def centred(self, x: np.ndarray) -> np.ndarray:
        """(e, a, b, alpha, beta) -> (e, a', b', alpha, beta)."""
        shift = np.zeros_like(x)
        shift[:, 1], shift[:, 2] = x[:, 3] * self._mean_n, x[:, 4] * self._mean_d
        moved: np.ndarray = x - shift
        return moved

    def surface(self, x: np.ndarray) -> Surface:
        """The surface of x, [5] or [S, 5]."""
        e, a, b, alpha, beta = np.moveaxis(x, -1, 0)
        with np.errstate(over="ignore"):
            numbers = np.exp(e), np.exp(a + alpha * self._mean_n), np.exp(b + beta * self._mean_d), alpha, beta
        return Surface(*(value if value.ndim else float(value) for value in numbers))
