import math

import pytest

from train.evaluation.document_scores import DocumentScore
from train.evaluation.domains import macro_average, tallies_by_domain
from train.evaluation.measures import LossSums

SUMS = [("a", 10.0, 10), ("b", 60.0, 20), ("a", 30.0, 10), ("b", 20.0, 20)]


def scores():
    return [
        DocumentScore(i, f"{i}", domain, 0, LossSums(nll, tokens, 3 * tokens, characters=2 * tokens))
        for i, (domain, nll, tokens) in enumerate(SUMS)
    ]


def test_every_domain_has_its_own_tally():
    found = tallies_by_domain(scores())
    assert list(found) == ["a", "b"]
    assert [tally.count("tokens") for tally in found.values()] == [20, 40]
    assert [tally.measures()["loss"].value for tally in found.values()] == [2.0, 2.0]


def test_domains_count_the_same_in_the_macro_average():
    listed = [tally.measures() for tally in tallies_by_domain([*scores(), *scores()[1:2]]).values()]
    losses = [measures["loss"] for measures in listed]
    mean = macro_average(listed)
    assert mean["loss"].value == pytest.approx((2.0 + 140 / 60) / 2)
    assert mean["loss"].standard_error == pytest.approx(math.hypot(*(one.standard_error for one in losses)) / 2)
    # A geometric mean, as the mean of losses is that of logarithms.
    assert mean["perplexity"].value == pytest.approx(math.exp(mean["loss"].value))
    assert mean["bits_per_character"].value == pytest.approx(1.5 * mean["bits_per_byte"].value)
    assert "word_loss" not in mean  # no words were counted


def test_one_document_of_a_domain_leaves_no_error():
    assert (
        macro_average([t.measures() for t in tallies_by_domain(scores()[:3]).values()])["loss"].standard_error is None
    )
