"""Quotients, their errors and their limits against cases worked by hand."""

import math

import numpy as np
import pytest

from model.errors import UserError
from train.evaluation.measures import Estimate, LossSums, Tally, exponential, ratio


def values(*entries):
    return {name: estimate.value for name, estimate in Tally(entries).measures().items()}


def test_bits_per_byte_are_those_of_the_text_and_the_loss_counts_the_ends():
    """16 tokens of 2 bits for 32 bytes, and 4 ends of 3 nats each."""
    entries = [LossSums(8 * math.log(4), tokens=8, bytes=16, words=2, end_nll=6.0, end_tokens=2)] * 2
    found = values(*entries)
    assert found["bits_per_byte"] == pytest.approx(1.0)
    assert found["loss"] == pytest.approx((16 * math.log(4) + 12) / 20)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["word_loss"] == pytest.approx(16 * math.log(4) / 4)
    assert found["word_perplexity"] == pytest.approx(4**4)


def test_figures_per_word_need_words():
    assert list(values(LossSums(3.0, tokens=2, bytes=2))) == ["loss", "perplexity", "bits_per_byte"]


@pytest.mark.parametrize(
    "entries", [[], [LossSums(0.0, tokens=0, bytes=0)], [LossSums(0.0, 0, 0, end_nll=2.0, end_tokens=3)]]
)
def test_no_counted_token_is_an_error_and_no_zero(entries):
    with pytest.raises(UserError, match="no token of text was scored"):
        Tally(entries).measures()


def test_the_ratio_and_its_error_by_hand():
    # Equal weights: the mean of 1 and 3, and its usual error s / sqrt(2) = 1.
    assert ratio(np.array([1.0, 3.0]), np.array([1.0, 1.0])) == Estimate(2.0, 1.0)
    # R = 12 / 6; residuals 4 - 2, 2 - 4 and 6 - 6: sqrt(3 / 2 * (4 + 4 + 0)) / 6.
    estimate = ratio(np.array([4.0, 2.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert estimate.value == 2.0
    assert estimate.standard_error == pytest.approx(math.sqrt(12) / 6)
    assert ratio(np.array([5.0]), np.array([2.0])) == Estimate(2.5, None)
    assert math.isnan(ratio(np.array([5.0, 1.0]), np.array([0.0, 0.0])).value)


def test_the_error_covers_what_resampled_documents_do():
    """The standard error against the spread of the ratio over freshly drawn collections of documents."""
    rng = np.random.default_rng(0)

    def collection():
        tokens = rng.integers(20, 2000, 60).astype(float)
        return tokens * rng.normal(3.0, 0.4, 60), tokens

    draws = [ratio(*collection()) for _ in range(400)]
    spread = np.std([draw.value for draw in draws])
    assert np.mean([draw.standard_error for draw in draws]) == pytest.approx(spread, rel=0.12)


def test_errors_of_exponentials():
    measures = Tally([LossSums(3.0, 2, 4, 1), LossSums(5.0, 2, 6, 0)]).measures()
    loss = measures["loss"]
    assert loss == Estimate(2.0, 0.5)
    assert measures["perplexity"].standard_error == pytest.approx(math.exp(2) * 0.5)


def test_what_is_too_large_for_a_float_is_infinite():
    assert exponential(Estimate(709.0, None)).value == pytest.approx(8.2184e307, rel=1e-4)
    assert exponential(Estimate(710.0, 1.0)) == Estimate(math.inf, math.inf)
    assert math.isnan(exponential(Estimate(math.nan, None)).value)
    found = values(LossSums(1e6, tokens=100_000, bytes=300_000, words=1))  # text without spaces is one word
    assert (found["word_loss"], found["word_perplexity"]) == (1e6, math.inf)
    assert found["perplexity"] == pytest.approx(math.exp(10))


@pytest.mark.filterwarnings("error")
def test_a_loss_that_is_not_finite_is_no_warning():
    measures = Tally([LossSums(math.inf, 2, 4, 1), LossSums(5.0, 2, 6, 1)]).measures()
    assert measures["loss"].value == math.inf
    assert math.isnan(measures["loss"].standard_error)
