"""The engine's interface: updates, requests that it refuses, capacity, no compilation while serving, new parameters."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.inference.engine.device import Decoding
from model.inference.engine.speculation import NGram
from model.inference.request import Request
from model.inference.sampling import Sampling
from tests.model.inference.constraints import Steps, Texts
from tests.model.inference.engine.serving import engine_of, serve

GREEDY = Sampling(temperature=0, max_tokens=4)


@functools.cache
def engine():
    made, _ = engine_of("dense", rows=2, tokens_per_step=5)
    made.compile()
    return made


def test_updates_say_why_a_text_ends():
    tokens = serve(engine(), [Request(prompt=(3, 4), sampling=GREEDY)])[0].tokens
    requests = [
        Request(prompt=(3, 4), sampling=GREEDY),
        Request(prompt=(3, 4), sampling=GREEDY, end=tokens[1]),
        Request(prompt=(3, 4), sampling=GREEDY, stop_tokens=(tokens[0],)),
        Request(prompt=tuple(range(39)), sampling=GREEDY),
    ]
    answers = serve(engine(), requests)
    assert [answer.ended_by for answer in answers] == ["max_tokens", "end_mark", "stop_token", "context"]
    assert [len(answer.tokens) for answer in answers] == [4, tokens.index(tokens[1]) + 1, 1, 2]


@pytest.mark.parametrize(("steps_per_call", "calls"), [(1, [1] * 9), (4, [4, 4, 1]), (16, [9])])
def test_a_call_takes_several_steps(steps_per_call, calls):
    made, _ = engine_of("dense", rows=2, tokens_per_step=5, steps_per_call=steps_per_call)
    number = made.submit(Request(prompt=(3,), sampling=Sampling(temperature=0, max_tokens=9)))
    found = []
    while made.num_unfinished:
        found += [len(update.tokens) for update in made.step() if update.request_id == number]
    assert found == calls
    assert (made.statistics.steps, made.statistics.text_steps, made.statistics.tokens_per_text_step) == (9, 9, 1)


def test_a_row_is_free_as_soon_as_the_last_token_of_its_text_is_on_its_way():
    made, before = engine(), engine().statistics.steps
    first, second, third = (
        made.submit(Request(prompt=(prompt,), sampling=Sampling(temperature=0, max_tokens=tokens)))
        for prompt, tokens in ((3, 2), (4, 9), (5, 1))
    )
    assert made.step() == []
    assert made.statistics.steps - before == 2  # until the first text has its tokens, since another waits
    assert made.statistics.running == 1
    assert [(update.request_id, len(update.tokens)) for update in made.step()] == [(first, 2), (second, 2)]
    rest = list(iter(lambda: made.step() if made.num_unfinished else None, None))
    assert [(update.request_id, len(update.tokens)) for updates in rest for update in updates] == [
        (second, 4), (third, 1), (second, 3),
    ]  # fmt: skip
    assert made.statistics.steps - before == 9


def test_scores_are_given_as_asked():
    request = Request(prompt=(3, 4, 5), sampling=GREEDY, num_logprobs=2, num_prompt_logprobs=0)
    answer = serve(engine(), [request])[0]
    assert [score.token for score in answer.prompt] == [4, 5]
    assert all(score.likeliest == () for score in answer.prompt)
    assert all(score.likeliest[0] == (score.token, score.logprob) for score in answer.scores)
    assert all(score.likeliest[0][1] >= score.likeliest[1][1] for score in answer.scores)
    without = serve(engine(), [Request(prompt=(3, 4, 5), sampling=GREEDY)])[0]
    assert without.prompt is None
    assert all(score.logprob is None for score in without.scores)


def test_a_bias_forbids_tokens_and_leaves_log_probabilities():
    free = serve(engine(), [Request(prompt=(3, 4), sampling=GREEDY, num_logprobs=1)])[0].scores[0]
    request = Request(prompt=(3, 4), sampling=GREEDY, num_logprobs=1, logit_bias={free.token: -float("inf")})
    other = serve(engine(), [request])[0].scores[0]
    assert other.token != free.token
    assert other.likeliest == free.likeliest
    assert other.logprob < free.logprob


def test_a_constraint_chooses_among_its_texts_and_changes_no_neighbour():
    free = serve(engine(), [Request(prompt=(3, 4), sampling=GREEDY, num_logprobs=1)])[0]
    texts = Texts(((7, 8), (7, 9, 9), (50, 51, 52)))
    requests = [
        Request(prompt=(3, 4), sampling=GREEDY, num_logprobs=1),
        Request(prompt=(3, 4), sampling=GREEDY, num_logprobs=1, constraint=texts),
        Request(prompt=(3, 4), sampling=Sampling(max_tokens=9, top_k=3), constraint=Steps(5, most=6)),
        Request(prompt=(3, 4), sampling=Sampling(max_tokens=3), constraint=Steps(5, most=6)),
        Request(prompt=(3, 4), sampling=Sampling(max_tokens=9), constraint=Steps(61, least=5, vocab_size=3)),
    ]
    beside, chosen, stepping, cut, lost = serve(engine(), requests)
    assert beside == free
    assert tuple(chosen.tokens) in texts.texts
    assert chosen.scores[0].likeliest == free.scores[0].likeliest  # log-probabilities are those of the model
    assert {(b - a) % 5 for a, b in itertools.pairwise(stepping.tokens)} == {1}
    assert [answer.ended_by for answer in (chosen, stepping, cut, lost)] == [
        "constraint", "constraint", "max_tokens", "dead_end",
    ]  # fmt: skip
    assert [len(answer.tokens) for answer in (stepping, cut)] == [6, 3]


def test_the_end_comes_only_where_a_constraint_allows_it():
    wish = {11: 100.0}  # the end, before anything else
    request = Request(
        prompt=(3, 4), sampling=GREEDY, end=11, logit_bias=wish, constraint=Steps(5, least=3, vocab_size=10)
    )
    answer = serve(engine(), [request])[0]
    assert (len(answer.tokens), answer.tokens[-1], answer.ended_by) == (4, 11, "end_mark")


def test_a_cancelled_request_ends_with_the_next_step():
    made = engine()
    number = made.submit(Request(prompt=(3, 4), sampling=GREEDY))
    made.cancel(number)
    made.cancel(number + 1)  # unknown
    assert made.num_unfinished == 1
    assert [(update.request_id, update.ended_by) for update in made.step()] == [(number, "cancelled")]
    assert made.step() == []
    assert made.num_unfinished == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(prompt=()), "request.prompt: has no tokens"),
        (dict(prompt=(61,)), "request.prompt: has ids from 61 to 61; this model knows 0 to 60"),
        (dict(prompt=(1,) * 41), "the prompt has 41 tokens, more than the context of 40; shorten it by 1 tokens"),
        (dict(prompt=(1,), logit_bias={99: 1.0}), "request.logit_bias: has ids from 99 to 99"),
        (
            dict(prompt=(1,), num_logprobs=9),
            "request.num_logprobs: this engine gives at most 3 likeliest tokens, got 9",
        ),
        (dict(prompt=(1,), sampling=Sampling(max_tokens=0)), "sampling.max_tokens"),
        (dict(prompt=(1,), first_prompt_logprob=0), "request.first_prompt_logprob: must be at least 1, got 0"),
        (dict(prompt=(1,), only_scores=True, num_prompt_logprobs=0), "request.only_scores: asks for no score"),
        (dict(prompt=(1, 2), only_scores=True), "request.only_scores: asks for no score"),
        (
            dict(prompt=(1,) * 42, only_scores=True, num_prompt_logprobs=0),
            "the prompt has 41 tokens, more than the context of 40",
        ),
        (dict(prompt=(1,), sampling=Sampling(temperature=0, top_k=2)), "sampling.top_k"),
    ],
)
def test_what_can_never_be_served_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        engine().submit(Request(**fields))


def test_a_request_larger_than_the_cache_is_refused_by_its_numbers():
    made, _ = engine_of("dense", rows=2, tokens_per_step=5, cache_tokens=16)
    assert made.capacity.tokens == made.capacity.longest_text == 16
    with pytest.raises(UserError, match="prompt of 10 tokens with 8 new ones needs 17 places in the cache, and the ca"):
        made.submit(Request(prompt=tuple(range(10)), sampling=Sampling(max_tokens=8)))
    made.submit(Request(prompt=tuple(range(10)), sampling=Sampling(max_tokens=7)))
    made.cancel(0)


def test_serving_compiles_nothing():
    made, compiled = engine(), []
    listen = lambda event, duration, **_: compiled.append(event) if "backend_compile" in event else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda x: x * 3 + len(compiled))(np.arange(3))
        assert compiled, "the listener hears compilations"
        compiled.clear()
        drawn = Sampling(temperature=1.0, top_k=4, top_p=0.9, min_p=0.1, repetition_penalty=1.1, max_tokens=5)
        requests = [
            Request(
                prompt=tuple(range(1 + 9 * i)), sampling=drawn if i % 2 else GREEDY, num_logprobs=i, logit_bias={i: 1.0}
            )
            for i in range(4)
        ]
        serve(made, [*requests, Request(prompt=(1, 2, 3, 4, 5, 6, 7), sampling=GREEDY, num_prompt_logprobs=1)])
        assert compiled == []
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_new_parameters_forget_the_pages_of_the_old():
    made, params = engine_of("dense", rows=2, tokens_per_step=5)
    request = Request(prompt=tuple(range(12)), sampling=GREEDY, num_logprobs=0)
    before = serve(made, [request])[0]
    made.replace_params(jax.tree.map(lambda x: x * 1.5, params))
    assert serve(made, [request])[0].scores != before.scores
    assert made.statistics.prefix_tokens == 0
    made.replace_params(params)
    assert serve(made, [request])[0] == before
    made.submit(request)
    with pytest.raises(UserError, match="1 requests are unfinished"):
        made.replace_params(params)


def test_scores_from_a_place_on_are_those_of_the_whole_and_leave_the_pages_before_it_to_others():
    made = engine()
    prompt = tuple(range(3, 33))
    whole = serve(made, [Request(prompt=prompt, sampling=GREEDY, num_prompt_logprobs=2)])[0]
    before = made.statistics
    part = Request(prompt=prompt, sampling=GREEDY, num_prompt_logprobs=2, first_prompt_logprob=27)
    answer = serve(made, [part])[0]
    assert answer.prompt == whole.prompt[26:]
    assert answer.tokens == whole.tokens
    # The six full pages before the token at 26, whose logits are those of the first score.
    assert made.statistics.prefix_tokens - before.prefix_tokens == 24
    before = made.statistics
    alone = serve(made, [dataclasses.replace(part, only_scores=True)])[0]
    assert (alone.prompt, alone.tokens, alone.ended_by) == (answer.prompt, [], "max_tokens")
    assert made.statistics.prompt_tokens - before.prompt_tokens == 29 - 24
    assert made.statistics.new_tokens == before.new_tokens


def test_an_engine_of_scores_compiles_no_decoding_and_takes_a_token_more_than_the_context():
    made, _ = engine_of("dense", rows=2, tokens_per_step=5, only_scores=True)
    done = []
    made.compile(lambda number, total: done.append((number, total)))
    assert done[-1] == (2, 2)
    assert made.is_exact
    ids = tuple(range(41))
    ask = Request(prompt=ids, num_prompt_logprobs=0, first_prompt_logprob=38, only_scores=True)
    last = serve(made, [ask])[0].prompt
    assert [score.token for score in last] == [38, 39, 40]
    other = serve(engine(), [Request(prompt=ids[:40], sampling=GREEDY, num_prompt_logprobs=0)])[0]
    assert last[:2] == other.prompt[37:]
    with pytest.raises(UserError, match="request.only_scores: this engine chooses no token"):
        made.submit(Request(prompt=(1,)))
    with pytest.raises(UserError, match="engine.speculation: guesses new tokens, and with only_scores there are none"):
        engine_of("dense", only_scores=True, speculation=NGram())


def test_log_probabilities_at_the_temperature_of_the_draws():
    """tests/train/alignment/test_rollouts.py compares them with those of the trainer."""
    sampling = Sampling(temperature=0.5, top_p=0.6, max_tokens=3, seed=1)
    request = Request(prompt=(3, 4), sampling=sampling, num_logprobs=0)
    plain, scaled = serve(engine(), [request, dataclasses.replace(request, scaled_logprobs=True)])
    assert plain.tokens == scaled.tokens
    assert all(one.logprob != other.logprob for one, other in zip(plain.scores, scaled.scores, strict=True))
    with pytest.raises(UserError, match="request.scaled_logprobs: there are none at temperature=0"):
        engine().submit(Request(prompt=(1,), sampling=GREEDY, scaled_logprobs=True))


def test_a_step_is_under_way_before_the_tokens_of_the_last_are_read(monkeypatch):
    made, events = engine(), []
    decode, chosen = made._device.decode, Decoding.chosen
    monkeypatch.setattr(made._device, "decode", lambda spans: events.append("begun") or decode(spans))
    monkeypatch.setattr(Decoding, "chosen", lambda self: events.append("known") or chosen(self))
    greedy = Request(prompt=(3, 4), sampling=dataclasses.replace(GREEDY, max_tokens=9))
    plain = serve(made, [greedy])[0]
    assert events == ["begun", "begun", "known", "begun", "known", "known"]
    events.clear()
    # The token after the end is read and dropped.
    before = made.statistics
    stopped = serve(made, [dataclasses.replace(greedy, stop_tokens=(plain.tokens[0],))])[0]
    assert stopped.tokens == plain.tokens[:1]
    assert events == ["begun", "begun", "known"]
    assert made.statistics.new_tokens - before.new_tokens == 1
    events.clear()
    penalty = dataclasses.replace(GREEDY, max_tokens=2, repetition_penalty=1.5)
    serve(made, [Request(prompt=(3, 4), sampling=penalty), greedy])  # it needs its tokens on the host
    assert events == ["begun", "known", "begun", "known", "begun", "begun", "known", "known"]  # then 4 steps, and 3
