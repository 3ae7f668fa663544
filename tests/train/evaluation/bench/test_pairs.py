"""Two models on the same text: intervals against the bootstrap's own, and no measure of tokens of other tokenizers."""

import dataclasses
import json
import math

import numpy as np
import pytest

from model.errors import UserError
from train.data.config import Bytes
from train.data.tokenizers.interface import BytesTokenizer
from train.evaluation.bench.pairs import compare, same_tokens
from train.evaluation.document_scores import DocumentScore
from train.evaluation.evaluate import Result
from train.evaluation.measures import LossSums, Tally
from train.lab.statistics.documents import paired_bootstrap
from train.run.loading import load_run

DRAWS = 400


def result(losses, *, per_token=1, domains=("",), numbers=None):
    """A result with a document for each loss; a document of n tokens has 4 n bytes."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 50, len(losses))
    scores = tuple(
        DocumentScore(
            i if numbers is None else numbers[i],
            f"{i}",
            domains[i % len(domains)],
            0,
            LossSums(loss * n, int(n) * per_token, 4 * int(n), int(n), characters=3 * int(n)),
        )
        for i, (loss, n) in enumerate(zip(losses, tokens.tolist(), strict=True))
    )
    tally = Tally(one.sums for one in scores)
    shared = {"window": 8, "stride": 4, "first_token": "left out", "left_out_tokens": 0, "left_out_bytes": 0}
    return Result(
        run="r", step=1, tally=tally, measures=tally.measures(), documents_not_restored=0, seconds=1.0, scores=scores,
        **shared,
    )  # fmt: skip


BASE, OTHER = np.linspace(1, 3, 12), np.linspace(1, 3, 12) - 0.1


def test_the_interval_is_that_of_the_bootstrap_over_documents():
    base, other = result(BASE), result(OTHER)
    pair = compare(base, other, same_tokenizer=True, draws=DRAWS)
    assert list(pair.measures) == ["loss", "word_loss", "bits_per_byte", "bits_per_character"]
    found = pair.measures["bits_per_byte"]
    nll, counts = ([tally.column(name) for tally in (base.tally, other.tally)] for name in ("nll", "bytes"))
    expected = paired_bootstrap(nll[0] / math.log(2), counts[0], nll[1] / math.log(2), counts[1], DRAWS)
    assert found.difference == expected
    assert found.difference.mean == pytest.approx(found.other - found.base)
    assert found.base == base.measures["bits_per_byte"].value
    # A difference that is the same in every document is certain, whatever their losses are.
    assert pair.measures["loss"].difference.high == pytest.approx(-0.1)
    assert pair.lower_other == list(pair.measures)
    assert json.loads(json.dumps(pair.as_json(), allow_nan=False))["base"]["loss"] == base.measures["loss"].value


def test_tokens_of_different_tokenizers_are_not_compared():
    pair = compare(result(BASE, domains="ab"), result(OTHER, per_token=2, domains="ab"), same_tokenizer=False, draws=9)
    assert list(pair.measures) == ["bits_per_byte", "bits_per_character"]
    assert list(pair.domains) == ["a", "b"]
    assert all(list(measures) == list(pair.measures) for measures in pair.domains.values())
    text = json.dumps(pair.as_json())
    assert '"bits_per_byte"' in text
    assert '"word_loss"' in text  # of each model by itself
    assert '"loss"' not in text
    assert '"perplexity"' not in text


def test_documents_are_paired_by_their_number():
    """A document of one token has no scored token without a mark before it: only one of the models has it."""
    whole, part = result(BASE[:5]), result(OTHER[:5])
    part = dataclasses.replace(part, scores=part.scores[1:])
    pair = compare(whole, part, same_tokenizer=True, draws=9)
    assert pair.measures["loss"].difference.n == 4
    with pytest.raises(UserError, match="document 1 is 0 for one model and 1 for the other"):
        compare(whole, result(OTHER[:4], numbers=[3, 0, 1, 2]), same_tokenizer=True)
    with pytest.raises(UserError, match="no document in common"):
        compare(whole, result(OTHER[:4], numbers=[5, 6, 7, 8]), same_tokenizer=True)


def test_one_document_has_no_interval():
    pair = compare(result(BASE[:1]), result(OTHER[:1]), same_tokenizer=True)
    assert pair.measures["loss"].difference is None
    assert pair.lower_other == []
    assert pair.as_json()["measures"]["loss"]["difference"] is None


def test_tokenizers_are_the_same_if_they_make_the_same_tokens(tiny_run):
    run = load_run(tiny_run)
    assert same_tokens(run, run)
    assert not same_tokens(run, dataclasses.replace(run, tokenizer=BytesTokenizer(Bytes(end_of_document=False))))
