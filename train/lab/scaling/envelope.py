"""Approach 1: the envelope of training curves: for each C the size whose curve is lowest there; then a power law of C.

Hoffmann et al. 2022, section 3.1. A point of a curve before its end was trained with a learning rate that had not yet
decayed, so it is higher than the end of a run of that length; with one length a size the envelope favours sizes near
their ends. Curves of a constant rate, or several lengths a size, suffer less.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from train.lab.scaling.surface import Compute, PowerLaw

_COMPUTES = 1500  # values of C, as in Hoffmann et al.


class Curve(NamedTuple):
    """The training loss of one run: N, and for each measured step the operations so far and the loss."""

    parameters: float
    flops: np.ndarray
    loss: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Envelope:
    """The best size at each C (arrays of the same length), and the power laws through them; None with one size."""

    flops: np.ndarray
    best_parameters: np.ndarray
    loss: np.ndarray
    parameters: PowerLaw | None
    tokens: PowerLaw | None


def fit_envelope(curves: Sequence[Curve], compute: Compute, smoothing: float = 0.1) -> Envelope:
    """The envelope of curves, each smoothed by a Gaussian of `smoothing` in log C, where at least two sizes have one.

    Of several runs of a size the lowest counts. A C at which the best of the curves has its end, or its beginning, is
    left out where no other size reaches as far, because a size that nobody competes with is not known to be the best.
    """
    smooth = [_smoothed(curve, smoothing) for curve in curves if len(curve.flops) >= 2]
    if not smooth:
        return Envelope(np.zeros(0), np.zeros(0), np.zeros(0), None, None)
    first, last = min(curve.flops[0] for curve in smooth), max(curve.flops[-1] for curve in smooth)
    flops = np.geomspace(first, last, _COMPUTES)
    losses = np.stack([np.interp(np.log(flops), np.log(c.flops), c.loss, np.inf, np.inf) for c in smooth])
    sizes = np.array([curve.parameters for curve in smooth])
    by_size = {size: losses[sizes == size].min(axis=0) for size in np.unique(sizes)}
    known = np.stack(list(by_size.values()))
    contested = np.isfinite(known).sum(axis=0) >= 2
    flops, known = flops[contested], known[:, contested]
    best = np.array(list(by_size))[np.argmin(known, axis=0)] if len(flops) else np.zeros(0)
    if len(np.unique(best)) < 2:
        return Envelope(flops, best, known.min(axis=0) if len(flops) else best, None, None)
    laws = PowerLaw.through(flops, best), PowerLaw.through(flops, compute.tokens(flops, best))
    return Envelope(flops, best, known.min(axis=0), *laws)


def _smoothed(curve: Curve, width: float) -> Curve:
    """The curve after a Gaussian filter in log C."""
    keep = np.isfinite(curve.loss) & (curve.flops > 0)
    flops, loss = curve.flops[keep], curve.loss[keep]
    x = np.log(flops)
    weights = np.exp(-0.5 * ((x[:, None] - x[None]) / width) ** 2)
    return Curve(curve.parameters, flops, weights @ loss / weights.sum(axis=1))
