"""The law L(N, D) = E + A / N^alpha + B / D^beta, and the N and D that make it least for a given C.

Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", equations 2 and 4.
"""

import dataclasses
from typing import Any, NamedTuple, Self

import numpy as np

from train.lab.scaling.points import FLOPS_PER_PARAMETER_AND_TOKEN, Points

NAMES = ("E", "A", "B", "alpha", "beta")


class Compute(NamedTuple):
    """The operations of training, C = coefficient * N^exponent * D.

    The usual C = 6 N D has the exponent 1. Small models have more operations a parameter, for their attention, and
    fewer, for look-ups in their embeddings.
    """

    coefficient: float = FLOPS_PER_PARAMETER_AND_TOKEN
    exponent: float = 1.0

    @classmethod
    def fitted(cls, points: Points) -> Self:
        """The least-squares line of log(C / D) over log N; a line of exponent 1 for runs of a single size."""
        log_n, log_cost = np.log(points.parameters), np.log(points.flops / points.tokens)
        spread = log_n - log_n.mean()
        slope = float(spread @ log_cost / (spread @ spread)) if np.ptp(log_n) > 1e-9 else 1.0
        return cls(float(np.exp(np.mean(log_cost - slope * log_n))), slope)

    def tokens(self, flops: Any, parameters: Any) -> Any:
        """D for C and N."""
        return flops / (self.coefficient * parameters**self.exponent)


SIX_ND = Compute()


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """The five numbers of the law; each is a float, or an array [S] of as many draws."""

    E: Any
    A: Any
    B: Any
    alpha: Any
    beta: Any

    def loss(self, parameters: Any, tokens: Any) -> Any:
        """L(N, D); with draws N and D are scalars, or arrays whose last axis is that of the draws."""
        return self.E + self.A * parameters**-self.alpha + self.B * tokens**-self.beta

    def optimum(self, flops: Any, compute: Compute = SIX_ND) -> tuple[Any, Any]:
        """N* and D* of the least loss for C.

        With C = c N^g D the loss along a budget is E + A N^-alpha + B (C / c)^-beta N^(g beta); its derivative is zero
        at N^(alpha + g beta) = alpha A / (g beta B) (C / c)^beta. With g = 1 and c = 6 it is equation 4.
        """
        c, g = compute
        power = 1 / (self.alpha + g * self.beta)
        n = (self.alpha * self.A / (g * self.beta * self.B)) ** power * (flops / c) ** (self.beta * power)
        return n, compute.tokens(flops, n)

    def as_dict(self) -> dict[str, Any]:
        """The numbers by name."""
        return {name: getattr(self, name) for name in NAMES}

    def values(self) -> np.ndarray:
        """[5], or [5, S], in the order of `NAMES`."""
        return np.array([getattr(self, name) for name in NAMES], np.float64)


class PowerLaw(NamedTuple):
    """y = coefficient * x^exponent."""

    coefficient: float
    exponent: float

    @classmethod
    def through(cls, x: Any, y: Any) -> Self:
        """The least-squares line in logarithms."""
        exponent, intercept = np.polyfit(np.log(np.asarray(x, np.float64)), np.log(np.asarray(y, np.float64)), 1)
        return cls(float(np.exp(intercept)), float(exponent))

    def __call__(self, x: Any) -> Any:
        """Returns y."""
        return self.coefficient * np.asarray(x, np.float64) ** self.exponent
