"""The difference of two models on one text, with the documents as the units drawn at random."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from model.errors import UserError
from train.lab.statistics.differences import Difference, check_level

_BLOCK = 1 << 22  # numbers of resampled weights that are in memory at once: 32 MB


def paired_bootstrap(
    base_sums: ArrayLike,
    base_counts: ArrayLike,
    other_sums: ArrayLike,
    other_counts: ArrayLike,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """The difference of two ratios of sums, such as losses per token, with a bootstrap over documents.

    Each draw resamples whole documents for both models at once: tokens of a document depend on one another, and a
    document that is hard for one model is hard for the other. The interval is studentised and symmetric: its half is
    the quantile of |difference of the draw - difference| / (standard error of the draw), in standard errors, which
    covers better than the quantiles of the draws where documents are few or of very different length (Hall 1988, "On
    symmetric bootstrap confidence intervals"). With fewer than ten documents it is wide.

    Args:
      base_sums: (documents,) the sum of the base's losses in each document.
      base_counts: (documents,) the tokens, or bytes, that these are summed over.
      other_sums: (documents,) likewise of the other model, in the same order of documents.
      other_counts: (documents,) likewise.
      draws: the number of resamples.
      seed: of the resamples.
      level: of the interval.

    Raises:
      UserError: for arrays of different lengths, fewer documents than `fewest_documents`, counts that are not positive,
        and sums that are not finite.
    """
    check_level(level)
    arrays = [np.asarray(array, np.float64) for array in (base_sums, base_counts, other_sums, other_counts)]
    _check(arrays, level)
    num_documents = len(arrays[0])
    mean, error = (float(value[0]) for value in _difference(np.ones((1, num_documents)), arrays))
    result = {"mean": mean, "level": level, "n": num_documents, "deviation": error * num_documents**0.5}
    if error <= 1e-14 * abs(arrays[0].sum() / arrays[1].sum()):
        return Difference(low=mean, high=mean, p_value=0.0 if mean else 1.0, design="documents", **result)
    pivots = np.concatenate(list(_pivots(arrays, mean, draws, seed)))
    half = float(np.quantile(pivots, level, method="higher")) * error
    beyond = int((pivots >= abs(mean) / error).sum())
    return Difference(
        low=mean - half,
        high=mean + half,
        p_value=(beyond + 1) / (len(pivots) + 1),
        design="documents",
        **result,
    )


def fewest_documents(level: float = 0.95) -> int:
    """The fewest documents that give an interval; 4 for 0.95.

    Of n documents a share of n^(1 - n) of the draws repeats one document alone, which tells nothing of the error: it
    must be well below 1 - level.
    """
    return next(n for n in itertools.count(2) if n ** (1.0 - n) < (1 - level) / 2)


def _pivots(arrays: list[np.ndarray], mean: float, draws: int, seed: int) -> Iterator[np.ndarray]:
    """|difference of the draw - difference| / (its standard error) of all draws, in blocks."""
    rng = np.random.default_rng(seed)
    n = len(arrays[0])
    rows = max(1, _BLOCK // n)
    for first in range(0, draws, rows):
        chosen = rng.integers(n, size=(min(rows, draws - first), n))
        chosen += n * np.arange(len(chosen))[:, None]
        weights = np.bincount(chosen.ravel(), minlength=chosen.size).reshape(chosen.shape).astype(np.float64)
        difference, error = _difference(weights, arrays)
        with np.errstate(divide="ignore", invalid="ignore"):
            pivots = np.abs(difference - mean) / error
        pivots[(weights > 0).sum(axis=1) == 1] = np.inf  # one document alone has no error, but for rounding
        yield pivots[~np.isnan(pivots)]


def _difference(weights: np.ndarray, arrays: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(draws,) the differences of the ratios and their standard errors, of the weights (draws, documents).

    The error is that of the linearised ratios: a document i adds (s_i - r c_i) / sum(c), of both models.
    """
    n = weights.shape[1]
    totals = weights @ np.stack(arrays, axis=1)
    base, other = totals[:, 0] / totals[:, 1], totals[:, 2] / totals[:, 3]
    # The influence of a document is (its four numbers) . vector, so its square is a quadratic form in the vector.
    vector = np.stack([-1 / totals[:, 1], base / totals[:, 1], 1 / totals[:, 3], -other / totals[:, 3]], axis=1)
    products = np.stack([a * b for a in arrays for b in arrays], axis=1)
    moments = (weights @ products).reshape(-1, 4, 4)
    variance = np.einsum("di,dij,dj->d", vector, moments, vector) * n / (n - 1)
    return other - base, np.sqrt(np.maximum(variance, 0.0))


def _check(arrays: list[np.ndarray], level: float) -> None:
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or arrays[0].ndim != 1:
        raise UserError(
            f"expected four arrays of one number a document, got the shapes {[array.shape for array in arrays]}: both "
            "models must be evaluated on the same documents"
        )
    if len(arrays[0]) < (fewest := fewest_documents(level)):
        raise UserError(
            f"expected at least {fewest} documents for an interval of {level:.4g}, got {len(arrays[0])}: evaluate on "
            "more text"
        )
    for name, counts in (("base", arrays[1]), ("other", arrays[3])):
        if not np.all(counts > 0):
            raise UserError(f"document {int(np.argmin(counts > 0))} has no tokens for the {name} model: leave it out")
    for name, sums in (("base", arrays[0]), ("other", arrays[2])):
        if not np.all(np.isfinite(sums)):
            raise UserError(
                f"document {int(np.argmin(np.isfinite(sums)))} has no finite loss for the {name} model; expected "
                "finite sums"
            )
