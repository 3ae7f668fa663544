"""Beside the loss: accuracy, entropy, calibration, and the loss against the position in the context.

Calibration (Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3): the tokens are put into 15 bins of
equal width by the probability of the likeliest token; with acc(b) the share of tokens of a bin for which that token
came, and conf(b) its mean probability,

    ECE = sum over bins b of n_b / n * |acc(b) - conf(b)|

The position of a token is the number of tokens before it in its window. Positions have bins 1, 2, 3-4, 5-8, 9-16, ...
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from train.evaluation.measures import Estimate, ratio

CONFIDENCE_BINS = 15
TOP = 5  # of the measure beside the accuracy of the likeliest token


NOT_COMPUTED = np.empty(0)


class TokenScores(NamedTuple):
    """The scored tokens of a window, each float64 [tokens]: see model/vocabulary/token_statistics.py."""

    nll: np.ndarray
    entropy: np.ndarray = NOT_COMPUTED
    confidence: np.ndarray = NOT_COMPUTED
    rank: np.ndarray = NOT_COMPUTED


def num_position_bins(length: int) -> int:
    """The number of bins of positions in windows of `length` inputs."""
    return (length - 1).bit_length() + 1


def position_range(number: int, length: int) -> tuple[int, int]:
    """The first and the last position of a bin."""
    return (1 << number) // 2 + 1, min(1 << number, length)


@dataclasses.dataclass
class DetailSums:
    """Sums over the scored tokens of a document.

    Attributes:
      tokens: their number.
      correct, correct_top: those that were the likeliest, and among the `TOP` likeliest.
      entropy: the sum of entropies in nats.
      bins: for each bin of confidence the tokens, the sum of confidences, and the correct tokens, float64 (3, bins).
      positions: for each bin of positions the tokens and the sum of losses, float64 (2, bins).
    """

    tokens: int
    correct: int
    correct_top: int
    entropy: float
    bins: np.ndarray
    positions: np.ndarray

    @classmethod
    def empty(cls, length: int) -> "DetailSums":
        """The sums over no token, in windows of `length` inputs."""
        return cls(0, 0, 0, 0.0, np.zeros((3, CONFIDENCE_BINS)), np.zeros((2, num_position_bins(length))))

    def add(self, scores: TokenScores, first: int) -> None:
        """Adds the tokens of a window, the first of which is at the position `first`."""
        correct = scores.rank == 0
        self.tokens += len(scores.nll)
        self.correct += int(correct.sum())
        self.correct_top += int((scores.rank < TOP).sum())
        self.entropy += float(scores.entropy.sum())
        # A confidence of 1 belongs to the last bin.
        confidence = np.nan_to_num(scores.confidence)  # the model may have diverged
        at = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
        for row, weights in zip(self.bins, (None, scores.confidence, correct), strict=True):
            row += np.bincount(at, weights, CONFIDENCE_BINS)
        positions = np.arange(first, first + len(scores.nll))
        at = np.frexp(positions - 1.0)[1]  # ceil(log2(position))
        for row, weights in zip(self.positions, (None, scores.nll), strict=True):
            row += np.bincount(at, weights, len(row))

    def as_json(self) -> dict[str, Any]:
        """JSON values from which `from_json` makes the same sums."""
        return dataclasses.asdict(self) | {"bins": self.bins.tolist(), "positions": self.positions.tolist()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "DetailSums":
        """The sums that `as_json` wrote."""
        return cls(**{**values, "bins": np.array(values["bins"]), "positions": np.array(values["positions"])})


@dataclasses.dataclass(frozen=True)
class PositionLoss:
    """The mean loss in nats of the tokens with `first` to `last` tokens before them in the window, and their number."""

    first: int
    last: int
    tokens: int
    loss: Estimate


@dataclasses.dataclass(frozen=True)
class CalibrationBin:
    """The tokens whose likeliest continuation had a probability from `low` to `high`."""

    low: float
    high: float
    tokens: int
    confidence: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Details:
    """The measures beside the loss; the accuracies are shares of tokens, the entropy is in nats per token."""

    accuracy: Estimate
    accuracy_top: Estimate
    entropy: Estimate
    calibration_error: float
    bins: tuple[CalibrationBin, ...]
    positions: tuple[PositionLoss, ...]


def measure_details(sums: Sequence[DetailSums], length: int) -> Details:
    """The measures of documents, in windows of `length` inputs; standard errors are over documents."""
    tokens_D = np.array([each.tokens for each in sums], np.float64)

    def share(values: Sequence[float]) -> Estimate:
        return ratio(np.array(values, np.float64), tokens_D)

    bins, positions_D = np.sum([each.bins for each in sums], axis=0), np.array([each.positions for each in sums])
    calibration = tuple(
        CalibrationBin(b / CONFIDENCE_BINS, (b + 1) / CONFIDENCE_BINS, int(n), confidence / n, correct / n)
        for b, (n, confidence, correct) in enumerate(bins.T.tolist())
        if n
    )
    total = math.fsum(each.tokens for each in calibration)
    return Details(
        accuracy=share([each.correct for each in sums]),
        accuracy_top=share([each.correct_top for each in sums]),
        entropy=share([each.entropy for each in sums]),
        calibration_error=sum(each.tokens * abs(each.accuracy - each.confidence) for each in calibration) / total,
        bins=calibration,
        positions=tuple(
            PositionLoss(*position_range(b, length), int(counts.sum()), ratio(losses, counts))
            for b, (counts, losses) in enumerate(positions_D.transpose(2, 1, 0))
            if counts.any()
        ),
    )
