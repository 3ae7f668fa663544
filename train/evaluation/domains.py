"""The measures of each domain of a text set, and their macro average, in which every domain counts the same."""

import math
from collections.abc import Iterable, Mapping

from train.evaluation.document_scores import DocumentScore
from train.evaluation.measures import Estimate, Tally, exponential

Measures = Mapping[str, Estimate]
# The measures that are exponentials of others: their average is the exponential of the average, a geometric mean.
EXPONENTIALS = {"perplexity": "loss", "word_perplexity": "word_loss"}


def tallies_by_domain(scores: Iterable[DocumentScore]) -> dict[str, Tally]:
    """The tally of each domain, in the order of their first documents."""
    found: dict[str, Tally] = {}
    for score in scores:
        found.setdefault(score.domain, Tally()).add(score.sums)
    return found


def macro_average(domains: Iterable[Measures]) -> dict[str, Estimate]:
    """The mean over domains of each measure that all of them have; its error is that of a mean of independent values.

    The error is None if one of the domains has a single document.
    """
    listed = list(domains)
    shared = [name for name in listed[0] if all(name in measures for measures in listed)]
    found = {}
    for name in shared:
        estimates = [measures[EXPONENTIALS.get(name, name)] for measures in listed]
        errors = [each.standard_error for each in estimates]
        known = [error for error in errors if error is not None]
        error = math.hypot(*known) / len(known) if len(known) == len(errors) else None
        mean = Estimate(math.fsum(each.value for each in estimates) / len(estimates), error)
        found[name] = exponential(mean) if name in EXPONENTIALS else mean
    return found
