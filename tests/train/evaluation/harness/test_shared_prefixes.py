"""Scores by the engine: those of batches and of the recorded answers, with each shared context read once."""

import jax
import numpy as np
import pytest

from model.layout import ONE_DEVICE
from tests.train.evaluation.harness.test_model import continuation
from train.evaluation.harness.requests import Continuation
from train.evaluation.harness.shared_prefixes import PAGE, PrefixScorer, tokens_to_read


@pytest.fixture(scope="module")
def scorer(models):
    """A scorer of a recorded model on one device."""
    run = models["adds_begin"]._run
    return PrefixScorer(run.experiment.model, jax.tree.map(np.asarray, run.params), ONE_DEVICE)


def ask(scorer, model, requests):
    told = []
    found = scorer.score(
        [model._ids(each) for each in requests], [len(each.continuation) for each in requests], told.append
    )
    assert sum(told) == len(requests)
    return found


def questions(model, draw):
    """Four questions of 90 tokens with four answers each; the questions begin with the same 40."""
    words = draw.integers(3, 60, (4, 50)).tolist()
    begin = draw.integers(3, 60, 40).tolist()
    return [Continuation(begin + own, draw.integers(3, 60, 1 + i).tolist()) for own in words for i in range(4)]


def test_scores_are_those_of_batches_and_contexts_are_read_once(models, scorer):
    model = models["adds_begin"]
    asked = questions(model, np.random.default_rng(0))
    found = ask(scorer, model, asked)
    for (value, greedy), (expected, is_greedy) in zip(found, model._score_batches(asked, lambda _: None), strict=True):
        assert value == pytest.approx(expected, abs=1e-4)
        assert greedy is is_greedy
    texts = [model._ids(each) for each in asked]
    # A text is read up to the token before its last, and to whole pages beyond what others share.
    read = scorer._engine.statistics.prompt_tokens
    assert read <= tokens_to_read(texts, PAGE) + PAGE * len(texts)
    assert read < sum(map(len, texts)) / 2
    assert scorer._engine.statistics.new_tokens == 0


def test_a_continuation_without_tokens_has_nothing_to_score(models, scorer):
    model, some = models["adds_begin"], Continuation([3, 4, 5], [6])
    found = ask(scorer, model, [Continuation([3, 4, 5], []), some])
    assert found[0] == (0.0, True)
    assert found[1] == ask(scorer, model, [some])[0]


def test_scores_are_the_recorded_ones(recorded, scorer):
    model, requests, answers = recorded
    if model.marks.adds_begin:
        asked = [continuation(model, *pair) for pair in requests["loglikelihood"]]
        for (value, greedy), (expected, is_greedy) in zip(
            ask(scorer, model, asked), answers["loglikelihood"], strict=True
        ):
            assert value == pytest.approx(expected, abs=1e-4)
            assert greedy is is_greedy


def test_the_engine_is_used_where_it_pays(models, scorer, monkeypatch):
    model = models["adds_begin"]
    asked = questions(model, np.random.default_rng(1))
    texts = [model._ids(each) for each in asked]
    assert scorer.pays(texts, 16 * 128)
    assert not scorer.pays(texts[:1], 128)
    monkeypatch.setattr(model, "_prefixes", scorer)
    assert model.score(asked) == ask(scorer, model, asked)
    monkeypatch.setattr(scorer, "score", None)
    assert model.score(asked[:1]) == model._score_batches(asked[:1], lambda _: None)


def test_tokens_that_texts_share_are_counted_once():
    texts = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 6, 7], [1, 2, 9], [8], [1, 2, 3, 4, 5]]
    assert tokens_to_read(texts, 1) == 5 + 0 + 2 + 1 + 1
    assert tokens_to_read(texts, 2) == 5 + 1 + 2 + 1 + 1
    assert tokens_to_read([], 2) == 0
