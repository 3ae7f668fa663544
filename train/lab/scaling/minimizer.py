"""Minimises many smooth functions of a few variables at once: BFGS in NumPy, each function with its own line search.

A bootstrap has thousands of problems of five variables each. One call of the objective evaluates all of them, so that
Python's time is divided by their number. The line search is the bisection for the weak Wolfe conditions of Lewis,
Overton 2013, "Nonsmooth optimization via quasi-Newton methods", algorithm 2.6, which also serves where a Huber loss is
almost an absolute value.
"""

from collections.abc import Callable

import numpy as np

Objective = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
_DECREASE, _CURVATURE = 1e-4, 0.9  # of the Wolfe conditions
_MAX_TRIES = 30  # bisections of one line search
_STALLED = 3  # steps in a row without progress, after which a function is left


def minimize(
    objective: Objective, starts: np.ndarray, max_evaluations: int = 600, tolerance: float = 1e-10
) -> tuple[np.ndarray, np.ndarray]:
    """The minima x [S, P] and their values [S], from the starts [S, P].

    Args:
      objective: takes x [M, P] and the numbers [M] of the functions to evaluate there, from 0 to S - 1; returns their
        values [M] and gradients [M, P]. A value that is not finite is a step too far.
      starts: where each function starts.
      max_evaluations: calls of the objective at most.
      tolerance: relative decrease of a step that counts as none.
    """
    x = np.array(starts, np.float64)
    search = _Search(x, *objective(x, np.arange(len(x))))
    for _ in range(max_evaluations):
        active = np.flatnonzero(search.active)
        if not len(active):
            break
        tried = search.x[active] + search.step[active, None] * search.direction[active]
        with np.errstate(all="ignore"):
            search.take(active, tried, *objective(tried, active), tolerance)
    return search.x, search.value


class _Search:
    """The state of all searches; every array has a row for each function."""

    def __init__(self, x: np.ndarray, value: np.ndarray, gradient: np.ndarray) -> None:
        count, size = x.shape
        self.x, self.value, self.gradient = x, value, gradient
        self.inverse = np.tile(np.eye(size), (count, 1, 1))
        self.fresh = np.ones(count, bool)
        self.stalled = np.zeros(count, int)
        self.active = np.isfinite(value)
        self.direction, self.step = np.zeros_like(x), np.zeros(count)
        self.low, self.high, self.tries = np.zeros(count), np.full(count, np.inf), np.zeros(count, int)
        self._begin_line(np.arange(count))

    def take(
        self, rows: np.ndarray, tried: np.ndarray, value: np.ndarray, gradient: np.ndarray, tolerance: float
    ) -> None:
        """Takes the values of the functions `rows` at the points that their line searches asked for."""
        slope = np.einsum("sp,sp->s", self.gradient[rows], self.direction[rows])
        low_enough = (value <= self.value[rows] + _DECREASE * self.step[rows] * slope) & np.isfinite(gradient).all(1)
        flat_enough = np.einsum("sp,sp->s", gradient, self.direction[rows]) >= _CURVATURE * slope
        self.tries[rows] += 1
        spent = self.tries[rows] >= _MAX_TRIES
        accepted = low_enough & (flat_enough | spent)
        self.active[rows[spent & ~low_enough]] = False
        self.high[rows] = np.where(low_enough, self.high[rows], self.step[rows])
        self.low[rows] = np.where(low_enough, self.step[rows], self.low[rows])
        open_ended = np.isinf(self.high[rows])
        middle = (self.low[rows] + np.where(open_ended, 0, self.high[rows])) / 2
        self.step[rows] = np.where(open_ended, 2 * self.step[rows], middle)
        moved, index = rows[accepted], np.flatnonzero(accepted)
        if len(moved):
            self._move(moved, tried[index], value[index], gradient[index], tolerance)

    def _move(self, rows: np.ndarray, x: np.ndarray, value: np.ndarray, gradient: np.ndarray, tolerance: float) -> None:
        s, y = x - self.x[rows], gradient - self.gradient[rows]
        decrease = self.value[rows] - value
        self.stalled[rows] = np.where(decrease <= tolerance * np.abs(value), self.stalled[rows] + 1, 0)
        self._update_inverse(rows, s, y)
        self.x[rows], self.value[rows], self.gradient[rows] = x, value, gradient
        self.active[rows] &= (self.stalled[rows] < _STALLED) & (np.abs(gradient).max(axis=1) > 0)
        self._begin_line(rows)

    def _update_inverse(self, rows: np.ndarray, s: np.ndarray, y: np.ndarray) -> None:
        """The BFGS update of the inverse Hessian; the first one scales the identity (Nocedal, Wright 2006, 6.20)."""
        sy = np.einsum("sp,sp->s", s, y)
        good = sy > 1e-14 * np.linalg.norm(s, axis=1) * np.linalg.norm(y, axis=1)
        rows, s, y, sy = rows[good], s[good], y[good], sy[good]
        first = self.fresh[rows]
        self.inverse[rows[first]] *= (sy[first] / np.einsum("sp,sp->s", y[first], y[first]))[:, None, None]
        self.fresh[rows] = False
        left = np.eye(s.shape[1]) - np.einsum("sp,sq->spq", s, y) / sy[:, None, None]
        inner = left @ self.inverse[rows] @ left.transpose(0, 2, 1)
        self.inverse[rows] = inner + np.einsum("sp,sq->spq", s, s) / sy[:, None, None]

    def _begin_line(self, rows: np.ndarray) -> None:
        direction = -np.einsum("spq,sq->sp", self.inverse[rows], self.gradient[rows])
        uphill = np.einsum("sp,sp->s", direction, self.gradient[rows]) >= 0
        if uphill.any():
            self.inverse[rows[uphill]] = np.eye(direction.shape[1])
            self.fresh[rows[uphill]] = True
            direction[uphill] = -self.gradient[rows[uphill]]
        self.direction[rows] = direction
        length = np.linalg.norm(direction, axis=1)
        self.step[rows] = np.where(self.fresh[rows], np.minimum(1.0, 0.1 / np.maximum(length, 1e-300)), 1.0)
        self.low[rows], self.high[rows], self.tries[rows] = 0.0, np.inf, 0
