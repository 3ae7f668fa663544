"""Speculation: what it refuses, and that it changes no bit of any answer, on the schedules of test_exactness.py."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given

from model.errors import UserError
from model.inference.engine.draft import DraftModel
from model.inference.engine.engine import Engine
from model.inference.engine.options import EngineOptions
from model.inference.engine.speculation import Draft, NGram, accepted
from model.inference.request import Request
from model.inference.sampling import Sampling
from model.transformer import forward
from tests.model.inference.engine.serving import DENSE, MODELS, engine_of, serve
from tests.model.inference.engine.test_exactness import HEADS, check_as_alone, few, of_model, schedules, served
from tests.model.inference.greedy import draw
from tests.tiers import SWEEP, representatives

NGRAM, DRAFT = NGram(tokens=3, longest=2, shortest=1), Draft(tokens=2)
ROLLS_BACK = [name for name in MODELS if name not in ("delta", "state space", "GRU", "encoder of a recurrence")]
# A draft reads no source.
GUESSED = [
    (name, guess) for name in ROLLS_BACK for guess in (NGRAM, DRAFT) if guess == NGRAM or not MODELS[name].encoder
]


@functools.cache
def guessing(name, speculation):
    """An engine that guesses."""
    draft = DraftModel(DENSE, jax.tree.map(lambda x: x * 1.02, draw(DENSE))) if isinstance(speculation, Draft) else None
    return engine_of(name, rows=3, tokens_per_step=9, speculation=speculation, draft=draft)[0]


def check(name, speculation, schedule):
    engine = guessing(name, speculation)
    check_as_alone(engine, served(name), of_model(name, schedule))
    assert engine.is_exact


@few(6)
@given(schedule=schedules())
def test_answers_are_those_without_guesses(schedule):
    check("dense", NGRAM, schedule)


@SWEEP
@pytest.mark.parametrize(("name", "speculation"), GUESSED, ids=[f"{n}-{type(s).__name__}" for n, s in GUESSED])
@few(60)
@given(schedule=schedules())
def test_many_schedules(name, speculation, schedule):
    check(name, speculation, schedule)


def test_guesses_are_right_at_times_and_save_steps():
    engine, other = guessing("dense", NGRAM), served("dense")[0]
    prompt = (*HEADS[0][:6], 3, 5, 3, 5, 3, 5)
    requests = [
        Request(prompt=prompt, sampling=Sampling(temperature=t, max_tokens=24, seed=seed), num_logprobs=1)
        for t, seed in ((0.0, 0), (0.5, 1))
    ]
    before, steps = engine.statistics, other.statistics.steps
    assert serve(engine, requests) == serve(other, requests)
    after = engine.statistics
    proposed, right = (getattr(after, name) - getattr(before, name) for name in ("proposed_tokens", "accepted_tokens"))
    assert 0 < right < proposed
    assert after.steps - before.steps < other.statistics.steps - steps
    assert after.new_tokens - before.new_tokens == 48
    assert after.text_steps - before.text_steps == 48 - right
    assert 0 < after.acceptance_rate < 1 < after.tokens_per_text_step


def test_drawn_tokens_have_the_distribution_of_the_model():
    """Of many samples, at a place whose token was guessed; chi-squared, 400 samples of 61 tokens in 8 groups."""
    engine, params = guessing("dense", NGRAM), served("dense")[1]
    prompt = (3, 5, 3, 5, 3)
    sampling = Sampling(temperature=0.7, max_tokens=2)
    before = engine.statistics
    answers = serve(engine, [Request(prompt=prompt, sampling=sampling, sample_index=i) for i in range(400)])
    assert engine.statistics.proposed_tokens - before.proposed_tokens >= 300
    logits = forward(DENSE, params, np.array([prompt])).logits_BTV[0, -1]
    p = np.asarray(jax.nn.softmax(logits / 0.7))
    order = np.argsort(-p)
    groups = [order[i : i + 1] for i in range(7)] + [order[7:]]
    counts = np.bincount([answer.tokens[0] for answer in answers], minlength=61)
    expected = np.array([400 * p[group].sum() for group in groups])
    found = np.array([counts[group].sum() for group in groups])
    keep = expected > 1
    assert ((found - expected)[keep] ** 2 / expected[keep]).sum() < 24.3  # p = 0.001 with 7 degrees of freedom


@pytest.mark.parametrize("name", representatives(["delta", "state space", "GRU"], "delta"))
def test_a_state_cannot_give_back_a_guess(name):
    kind = {"delta": "GatedDelta", "state space": "StateSpace", "GRU": "GRU"}[name]
    with pytest.raises(UserError, match=f"layer 0 of the model is a {kind}, whose state cannot give back a guess"):
        engine_of(name, speculation=NGRAM)


def test_options_and_their_models_go_together():
    draft = DraftModel(DENSE, draw(DENSE))
    with pytest.raises(UserError, match=r"Draft\(\) needs a draft model, and none is given"):
        engine_of("dense", speculation=Draft())
    for speculation in (None, NGRAM):
        with pytest.raises(UserError, match="a draft model is given, and engine.speculation="):
            engine_of("dense", speculation=speculation, draft=draft)
    for wrong, message in (
        (NGram(tokens=0), "tokens: must be from 1 to 31, got 0"),
        (Draft(tokens=32), "tokens: must be from 1 to 31, got 32"),
        (NGram(shortest=0), "shortest: must be at least 1, got 0"),
        (NGram(longest=1, shortest=2), "longest: must be at least shortest=2, got 1"),
    ):
        with pytest.raises(UserError, match=message):
            Engine(DENSE, {}, EngineOptions(speculation=wrong))


def test_guesses_are_accepted_up_to_the_first_wrong_one():
    assert accepted([], [4]) == 0
    assert accepted([4, 5, 6], [4, 5, 7, 6]) == 2
    assert accepted([4, 5], [4, 5, 6]) == 2
    assert accepted([4, 5], [5, 5, 6]) == 0
