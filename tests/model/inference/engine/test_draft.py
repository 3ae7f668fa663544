"""Guesses of a draft model: its own cache, the draws that it shares with the model, and the drafts that it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.inference.engine.capacity import capacity_of, plan_of
from model.inference.engine.draft import DraftModel
from model.inference.engine.speculation import Draft
from model.inference.request import Request
from model.inference.sampling import Sampling, rules_of_rows, sample_token
from tests.model.inference.engine.serving import DENSE, MODELS, engine_of, serve
from tests.model.inference.engine.test_exactness import HEADS, served
from tests.model.inference.greedy import draw


@pytest.fixture(scope="module")
def same():
    """An engine whose draft is the model itself, in a shorter context and with fewer tokens in a step than prompts have."""
    config = dataclasses.replace(DENSE, context_length=32)
    draft = DraftModel(config, draw(DENSE))
    return engine_of("dense", rows=1, tokens_per_step=8, speculation=Draft(tokens=2), draft=draft)[0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_that_is_the_model_guesses_every_token(same, temperature):
    """Also of drawn texts, since it draws with their keys; and after a text gave way to one of better priority."""
    sampling = Sampling(temperature=temperature, max_tokens=9)
    requests = [
        Request(prompt=tuple(HEADS[i % 2][: 3 + 5 * i]), sampling=sampling, priority=-i, num_logprobs=0)
        for i in range(4)
    ]
    before = same.statistics
    answers = serve(same, requests, delays=[0, 2, 3, 3])
    after = same.statistics
    assert after.preemptions > before.preemptions
    proposed = after.proposed_tokens - before.proposed_tokens
    assert proposed == after.accepted_tokens - before.accepted_tokens > 4 * 4
    plain, params, _ = served("dense")
    plain.replace_params(params)
    assert answers == serve(plain, requests)


# In each step the token before the last is yet to be read too.
@pytest.mark.parametrize(("penalty", "expected"), [(None, [[1, 2]] * 3), (1.5, [[1, 1], [1]] * 3)])
def test_guesses_are_drawn_in_one_call_unless_a_rule_must_know_them(same, monkeypatch, penalty, expected):
    same.compile()
    proposer, calls = same._proposer, []
    decode = proposer._device.decode
    monkeypatch.setattr(
        proposer._device, "decode", lambda spans: calls.append([s.count for s in spans]) or decode(spans)
    )
    before = same.statistics
    sampling = Sampling(temperature=0, max_tokens=9, repetition_penalty=penalty)
    assert len(serve(same, [Request(prompt=(3, 4), sampling=sampling)])[0].tokens) == 9
    assert [counts for counts in calls if counts] == expected
    proposed = same.statistics.proposed_tokens - before.proposed_tokens
    assert proposed == same.statistics.accepted_tokens - before.accepted_tokens == 6


def test_a_text_longer_than_the_draft_goes_on_alone(same):
    before = same.statistics
    answer = serve(same, [Request(prompt=tuple(HEADS[0][:28]), sampling=Sampling(temperature=0, max_tokens=12))])[0]
    assert len(answer.tokens) == 12
    # The draft's context holds 32 tokens, so at most 5 of the 11 after the first are guessed.
    assert 0 < same.statistics.proposed_tokens - before.proposed_tokens <= 5


def test_its_cache_counts(same):
    own = capacity_of(plan_of(DENSE, same.options))
    assert same.capacity == dataclasses.replace(own, cache_bytes=own.cache_bytes + 32 * own.bytes_per_token)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dataclasses.replace(DENSE, vocab_size=60), "the draft model knows 60 tokens and the model 61"),
        (MODELS["GRU"], "layer 0 of the draft model is a GRU, whose state cannot give back a guess"),
        (MODELS["positions of lengths"], "the draft model's positions depend on the length of a text"),
    ],
)
def test_drafts_that_cannot_guess_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        engine_of("dense", speculation=Draft(), draft=DraftModel(config, {}))


def test_shared_draws_agree_as_often_as_the_theorem_says():
    """Of two models' distributions p and q, against the bound and against independent draws; 4,000 keys."""
    draws = np.random.default_rng(0)
    p_V, q_V = draws.normal(size=(2, 12)).astype(np.float32)
    q_V = p_V + 0.5 * q_V
    keys = jax.vmap(jax.random.key)(np.arange(4000))
    rules = rules_of_rows([Sampling()] * 4000)
    one, other = (
        np.asarray(sample_token(rules, jnp.broadcast_to(x_V, (4000, 12)), keys, jnp.zeros((4000, 12), bool)))
        for x_V in (p_V, q_V)
    )
    p, q = (np.exp(x_V) / np.exp(x_V).sum() for x_V in (p_V, q_V))
    distance = np.abs(p - q).sum() / 2
    agreement = (one == other).mean()
    error = 3 * (agreement * (1 - agreement) / 4000) ** 0.5
    assert agreement + error > (1 - distance) / (1 + distance)
    assert agreement - error < 1 - distance
    assert agreement > 2 * (p * q).sum()
