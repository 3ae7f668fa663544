"""The promise of the engine: a request's tokens and log-probabilities are the same bits as alone, on random schedules.

Alone, a request finds an empty cache; the schedules give it neighbours, pages of other texts, and too few pages.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.inference.engine.programs import serving_config
from model.inference.engine.speculation import NGram
from model.inference.generate import generate
from model.inference.request import Request
from model.inference.sampling import Sampling
from model.transformer import forward
from tests.model.inference.constraints import Steps
from tests.model.inference.engine.serving import DENSE, MODELS, engine_of, serve, with_source
from tests.tiers import SWEEP, representatives

HEADS = [[(7 * i * i + 3 * i + head) % 61 for i in range(DENSE.context_length)] for head in range(2)]

GREEDY_OR_DRAWN = st.one_of(
    st.builds(Sampling, temperature=st.just(0.0), max_tokens=st.integers(1, 10)),
    st.builds(
        Sampling,
        temperature=st.sampled_from([0.7, 1.0]),
        top_k=st.sampled_from([None, 5]),
        top_p=st.sampled_from([None, 0.8]),
        min_p=st.sampled_from([None, 0.05]),
        repetition_penalty=st.sampled_from([None, 1.3]),
        seed=st.integers(0, 1),
        max_tokens=st.integers(1, 10),
    ),
)


@st.composite
def drawn_requests(draw):
    """A request whose prompt begins like those of others."""
    head, length = draw(st.sampled_from(HEADS)), draw(st.integers(1, DENSE.context_length))
    own = draw(st.integers(0, min(length, 6)))
    constraint = draw(st.sampled_from([None, None, Steps(3), Steps(17)]))
    forbidden = 0.0 if constraint else -float("inf")
    prompt = head[: length - own] + [draw(st.integers(0, 60)) for _ in range(own)]
    return Request(
        prompt=tuple(prompt),
        sampling=draw(GREEDY_OR_DRAWN),
        sample_index=draw(st.integers(0, 2)),
        num_logprobs=3,
        num_prompt_logprobs=draw(st.sampled_from([None, None, 2])),
        first_prompt_logprob=draw(st.sampled_from([1, 1, max(1, length - 3)])),
        priority=draw(st.integers(0, 2)),
        logit_bias=draw(st.sampled_from([{}, {}, {5: 2.0, 7: forbidden}])),
        end=draw(st.sampled_from([None, 11])),
        constraint=constraint,
    )


@st.composite
def schedules(draw):
    """Requests, the steps before which they come, and those before which some are cancelled."""
    requests = draw(st.lists(drawn_requests(), min_size=2, max_size=7))
    delays = [draw(st.sampled_from([0, 0, 1, 3, 8, 20])) for _ in requests]
    cancels = {i: delay + draw(st.integers(1, 20)) for i, delay in enumerate(delays) if draw(st.integers(0, 7)) == 0}
    return requests, delays, cancels


@functools.cache
def served(name, cache_dtype=None):
    """An engine, its parameters, and the answers that requests got alone."""
    rows = 4 if name == "dense" else 2
    return *engine_of(name, rows=rows, tokens_per_step=2 * rows + 1, cache_dtype=cache_dtype), {}


def check(name, schedule, cache_dtype=None):
    plain = served(name, cache_dtype)
    check_as_alone(plain[0], plain, of_model(name, schedule))


def of_model(name, schedule):
    requests, *others = schedule
    return [with_source(name, request) for request in requests], *others


def check_as_alone(engine, plain, schedule):
    """Asserts that an engine answers a schedule as one of `served` answers each request alone."""
    (alone_in, params, alone), (requests, delays, cancels) = plain, schedule
    for request in requests:
        if (key := repr(request)) not in alone:
            alone_in.replace_params(params)  # an empty cache
            alone[key] = serve(alone_in, [request])[0]
    for request, answer in zip(requests, serve(engine, requests, delays, cancels), strict=True):
        expected = alone[repr(request)]
        if answer.ended_by == "cancelled":
            assert answer.scores == expected.scores[: len(answer.scores)]
            continue
        assert answer == expected


def few(examples):
    checks = [HealthCheck.too_slow, HealthCheck.differing_executors]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=checks)


EVERY = representatives(MODELS, "dense", "delta", "encoder")


@pytest.mark.parametrize("name", EVERY)
@few(6)
@given(schedule=schedules())
def test_a_request_is_answered_as_if_it_were_alone(name, schedule):
    check(name, schedule)


@SWEEP
@pytest.mark.parametrize("name", MODELS)
@few(60)
@given(schedule=schedules())
def test_many_schedules(name, schedule):
    check(name, schedule)


@SWEEP
@pytest.mark.parametrize("name", MODELS)
@few(30)
@given(schedule=schedules())
def test_answers_are_those_of_single_steps(name, schedule):
    rows = 4 if name == "dense" else 2
    check_as_alone(single_steps(name, rows), served(name), of_model(name, schedule))


@functools.cache
def single_steps(name, rows):
    return engine_of(name, rows=rows, tokens_per_step=2 * rows + 1, steps_per_call=1)[0]


@functools.cache
def invariant(name, **options):
    rows = 4 if name == "dense" else 2
    return engine_of(name, rows=rows, tokens_per_step=2 * rows + 1, invariant=True, **options)[0]


@few(4)
@given(schedule=schedules())
def test_one_program_for_all_tokens_gives_the_same_bits(schedule):
    """On a CPU they are those of an engine with a program for each purpose."""
    check_as_alone(invariant("dense"), served("dense"), schedule)


@SWEEP
@few(30)
@given(schedule=schedules())
def test_one_program_reads_guesses_too(schedule):
    check_as_alone(invariant("dense", speculation=NGram(shortest=1)), served("dense"), schedule)


@SWEEP
@pytest.mark.parametrize("name", MODELS)
@few(30)
@given(schedule=schedules())
def test_many_schedules_of_one_program(name, schedule):
    check_as_alone(invariant(name), served(name), of_model(name, schedule))


@few(4)
@given(schedule=schedules())
def test_a_cache_in_a_smaller_format_is_as_exact(schedule):
    check("keys of an earlier layer", schedule, "int8")


@SWEEP
@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
@pytest.mark.parametrize("name", ["dense", "window", "latent", "delta", "encoder"])
@few(40)
@given(schedule=schedules())
def test_many_schedules_in_smaller_formats(name, dtype, schedule):
    check(name, schedule, dtype)


@pytest.mark.parametrize("name", representatives(MODELS, "dense", "latent", "delta", "encoder"))
def test_the_programs_are_exact_and_agree_with_generate(name):
    engine, params, _ = served(name)
    sampling = Sampling(temperature=1.0, top_k=20, repetition_penalty=1.2, max_tokens=6, seed=5)
    prompts = [HEADS[0][:9], HEADS[0][:9], HEADS[1][:1], HEADS[0][:17]]
    requests = [Request(prompt=tuple(p), sampling=sampling, sample_index=i == 1) for i, p in enumerate(prompts)]
    if MODELS[name].encoder is not None:  # it reads a prompt as a source
        requests = [dataclasses.replace(each, prompt=(7,), source=each.prompt) for each in requests]
    # With a capacity the tokens that `generate` drops depend on the other rows; the engine drops none.
    config = serving_config(MODELS[name]) if name == "experts" else MODELS[name]
    expected = generate(config, params, prompts, sampling)
    assert [answer.tokens for answer in serve(engine, requests)] == expected
    assert engine.is_exact


def test_what_is_left_in_pages_does_not_matter():
    """A text whose numbers overflowed may have left NaN in them."""
    engine, params, _ = served("dense")
    requests = [
        Request(prompt=tuple(HEADS[0][:count]), sampling=Sampling(max_tokens=9)) for count in (3, 10, 21, 6, 13)
    ]
    engine.replace_params(params)
    expected, device = serve(engine, requests), engine._device
    engine.replace_params(params)
    device._state = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), device._state)
    assert serve(engine, requests) == expected


def test_a_source_is_read_once_in_a_row_and_pages_are_shared_with_the_same_source():
    engine, params, _ = served("encoder")
    engine.replace_params(params)
    before = engine.statistics
    texts = [
        Request(prompt=(7, *HEADS[0][:12]), source=source, sampling=Sampling(max_tokens=1))
        for source in ((5, 6), (5, 7), (5, 6))
    ]
    for text, counts in zip(texts, ((2, 0), (4, 0), (6, 12)), strict=True):
        serve(engine, [text])
        after = engine.statistics
        assert (after.source_tokens - before.source_tokens, after.prefix_tokens - before.prefix_tokens) == counts
    serve(engine, [texts[0]])  # its row holds the source
    assert engine.statistics.source_tokens == after.source_tokens


def test_a_smaller_format_rounds_a_little():
    engine, params, _ = served("keys of an earlier layer", "int8")
    tokens = tuple(HEADS[0][:30])
    request = Request(prompt=tokens, sampling=Sampling(max_tokens=1), num_prompt_logprobs=0)
    found = [score.logprob for score in serve(engine, [request])[0].prompt]
    logits = forward(MODELS["keys of an earlier layer"], params, np.array([tokens])).logits_BTV[0]
    expected = jax.nn.log_softmax(logits)[np.arange(29), np.array(tokens[1:])]
    assert 0 < np.abs(np.array(found) - np.asarray(expected)).max() < 0.2
    assert engine.is_exact


def test_schedules_meet_what_they_should():
    """The schedules above share pages, run out of them and cancel."""
    engine, params, _ = served("dense")
    engine.replace_params(params)
    before = engine.statistics
    prompt = tuple(HEADS[0][:20])
    sampling = Sampling(temperature=0, max_tokens=16)
    samples = [Request(prompt=prompt, sampling=sampling, sample_index=i) for i in range(4)]
    other = Request(prompt=tuple(HEADS[1][:20]), sampling=sampling)
    serve(engine, [*samples, other], cancels={1: 12})
    after = engine.statistics
    # The five full pages of all samples are read once; three samples find four or more of them.
    assert after.prefix_tokens - before.prefix_tokens >= 3 * 16
    assert after.preemptions > before.preemptions
    assert after.evictions > before.evictions
