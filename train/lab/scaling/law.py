"""A fitted law with its uncertainty: intervals of its numbers, of the compute-optimal line, and of further runs."""

import dataclasses
from typing import Any, Literal, NamedTuple

import numpy as np

from model.errors import UserError
from train.lab.scaling.huber import DELTA, fit_huber, refit
from train.lab.scaling.points import Points
from train.lab.scaling.surface import NAMES, Compute, Surface

Resampling = Literal["points", "noise"]
DRAWS = 1000
_FEW = 50  # runs below which noise is drawn


class Interval(NamedTuple):
    """A number with the bounds of its interval."""

    value: float
    low: float
    high: float

    def holds(self, truth: float) -> bool:
        """Whether a number is inside."""
        return self.low <= truth <= self.high


@dataclasses.dataclass(frozen=True, eq=False)
class Law:
    """A surface fitted to runs, and refitted to resamples of them.

    Attributes:
      points: the runs.
      surface: the fit.
      draws: the fits of the resamples, arrays [S].
      compute: the operations of training for N and D, fitted to the runs.
      resampling: "points" resamples runs (Efron 1979): it needs no assumption about the noise, but many runs; "noise"
        keeps N and D of all runs, as a planned ladder does, and draws normal noise of log L around the fit, of a scale
        that is itself drawn from what the residuals leave open: sigma sqrt(v / chi-squared_v), v = n - 5.
      residuals: log L of the runs minus that of the fit, [n].
      noise: a draw of the noise of one run for each resample, [S].
    """

    points: Points
    surface: Surface
    draws: Surface
    compute: Compute
    resampling: Resampling
    residuals: np.ndarray
    noise: np.ndarray

    def interval(self, name: str, level: float = 0.95) -> Interval:
        """Percentile interval of one of the law's numbers, or of the powers `a` of N* and `b` of D* as powers of C."""
        return self._interval(_number(self.surface, self.compute, name), _number(self.draws, self.compute, name), level)

    def standard_error(self, name: str) -> float:
        """The standard deviation of a number over the resamples."""
        with np.errstate(over="ignore", invalid="ignore"):  # a resample may have any number
            return float(np.std(_number(self.draws, self.compute, name), ddof=1))

    def optimum(self, flops: float, level: float = 0.95) -> tuple[Interval, Interval, Interval]:
        """N*, D* and the loss there for C, each with its interval."""
        best, drawn = self.surface.optimum(flops, self.compute), self.draws.optimum(flops, self.compute)
        losses = self.surface.loss(*best), self.draws.loss(*drawn)
        first, second, third = (self._interval(*pair, level) for pair in (*zip(best, drawn, strict=True), losses))
        return first, second, third

    def predict(self, parameters: float, tokens: float, level: float = 0.95) -> Interval:
        """The loss of a further run with N and D: the interval of a new measurement, noise included.

        It holds the uncertainty of the fit and the noise of one run, as far as the law is true; that the law itself
        may fail beyond the runs is not in it.
        """
        drawn = self.draws.loss(parameters, tokens) * np.exp(self.noise)
        return self._interval(self.surface.loss(parameters, tokens), drawn, level)

    @staticmethod
    def _interval(value: Any, drawn: np.ndarray, level: float) -> Interval:
        finite = drawn[np.isfinite(drawn)]
        if not len(finite) or not np.isfinite(value):
            return Interval(float(value), -np.inf, np.inf)
        low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(value), float(low), float(high))


def fit_law(
    points: Points, draws: int = DRAWS, resampling: Resampling | None = None, seed: int = 0, delta: float = DELTA
) -> Law:
    """Fits the law by its Huber loss (huber.py), and to resamples.

    Args:
      points: the runs.
      draws: the number of resamples.
      resampling: see `Law`; None for "points" from 50 runs on, "noise" below.
      seed: of the resamples.
      delta: of the Huber loss.

    Raises:
      UserError: for too few runs, sizes or budgets, or too few resamples for an interval.
    """
    if draws < 20:
        raise UserError(f"{draws} resamples give no interval; take at least 20")
    surface = fit_huber(points, delta)
    resampling = resampling or ("points" if len(points) >= _FEW else "noise")
    log_fitted = np.log(surface.loss(points.parameters, points.tokens))
    residuals = np.log(points.loss) - log_fitted
    random, count, free = np.random.default_rng(seed), len(points), len(points) - len(NAMES)
    if resampling == "points":
        weights = random.multinomial(count, np.full(count, 1 / count), draws)
        drawn = refit(points, surface, weights, points.loss[None], delta)
        noise = random.choice(residuals - residuals.mean(), draws) * np.sqrt(count / free)
    else:
        scale = np.sqrt(residuals @ residuals / random.chisquare(free, (draws, 1)))
        losses = np.exp(log_fitted + scale * random.normal(size=(draws, count)))
        drawn = refit(points, surface, np.ones((1, count)), losses, delta)
        noise = scale[:, 0] * random.normal(size=draws)
    return Law(points, surface, drawn, Compute.fitted(points), resampling, residuals, noise)


def _number(surface: Surface, compute: Compute, name: str) -> Any:
    if name in NAMES:
        return getattr(surface, name)
    power = compute.exponent * surface.beta / (surface.alpha + compute.exponent * surface.beta)
    of_n = power / compute.exponent
    return {"a": of_n, "b": 1 - power}[name]
