"""Corrections for several comparisons at once."""

from collections.abc import Sequence

import numpy as np

from model.errors import UserError


def holm(p_values: Sequence[float]) -> np.ndarray:
    """The p-values adjusted for the number of tests, in their order (Holm 1979, "A simple sequentially rejective ...").

    If every adjusted value of at most alpha counts as a finding, the chance of one false finding or more is at most
    alpha, however the tests depend on one another.

    Raises UserError for a value outside 0 to 1.
    """
    p = np.asarray(p_values, np.float64)
    if p.size and not (np.all(p >= 0) and np.all(p <= 1)):
        raise UserError(f"expected p-values from 0 to 1, got {list(p_values)}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return adjusted
