"""The surface by variable projection: for given powers the law is linear in E, A and B, which least squares solves.

Golub, Pereyra 1973, "The Differentiation of Pseudo-Inverses and Nonlinear Least Squares Problems Whose Variables
Separate"; with E, A, B >= 0 (Lawson, Hanson 1974, "Solving Least Squares Problems", chapter 23). Residuals are relative
to the measured loss, which for small ones is the difference of log L. Only two variables are searched, so it hardly
depends on its starts; but squares give outliers more weight than a Huber loss does.
"""

import numpy as np

from train.lab.scaling.huber import check_points
from train.lab.scaling.minimizer import minimize
from train.lab.scaling.points import Points
from train.lab.scaling.surface import Surface

_STARTS = (0.1, 0.3, 0.6, 1.2)  # of both powers


def fit_projection(points: Points, weights: np.ndarray | None = None) -> Surface:
    """The surface of the least sum of squared relative residuals. Raises UserError for too few points."""
    check_points(points)
    problem = _Projected(points, np.ones(len(points)) if weights is None else weights)
    starts = np.array([(alpha, beta) for alpha in _STARTS for beta in _STARTS])
    powers, values = minimize(problem, starts, tolerance=1e-14)
    alpha, beta = powers[np.argmin(values)]
    return problem.surface(float(alpha), float(beta))


class _Projected:
    """The least squares as a function of (alpha, beta)."""

    def __init__(self, points: Points, weights: np.ndarray) -> None:
        log_n, log_d = np.log(points.parameters), np.log(points.tokens)
        self._mean_n, self._mean_d = log_n.mean(), log_d.mean()
        self._n, self._d = log_n - self._mean_n, log_d - self._mean_d
        self._scale = np.sqrt(weights) / points.loss
        self._target = np.sqrt(weights)

    def _solve(self, alpha: float, beta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The columns [n, 3], their coefficients [3] of at least 0, and the residuals [n]."""
        from scipy.optimize import nnls

        columns = np.stack([np.ones_like(self._n), np.exp(-alpha * self._n), np.exp(-beta * self._d)], axis=1)
        columns = columns * self._scale[:, None]
        found, _ = nnls(columns, self._target)
        return columns, found, columns @ found - self._target

    def __call__(self, x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `minimizer.Objective`.

        The coefficients are those of the least value, so the gradient is that for fixed coefficients (the envelope
        theorem; for those at the bound of 0 the derivative is 0 as well).
        """
        values, gradients = np.full(len(x), np.inf), np.zeros_like(x)
        for i, (alpha, beta) in enumerate(x):
            if max(abs(alpha), abs(beta)) > 10:  # far from any law, and near the largest float
                continue
            columns, (_, a, b), residual = self._solve(alpha, beta)
            values[i] = residual @ residual
            by_alpha, by_beta = -a * columns[:, 1] * self._n, -b * columns[:, 2] * self._d
            gradients[i] = 2 * residual @ by_alpha, 2 * residual @ by_beta
        return values, gradients

    def surface(self, alpha: float, beta: float) -> Surface:
        """The surface of given powers."""
        _, (e, a, b), _ = self._solve(alpha, beta)
        with np.errstate(over="ignore"):
            a, b = a * np.exp(alpha * self._mean_n), b * np.exp(beta * self._mean_d)
        return Surface(float(e), float(a), float(b), alpha, beta)
