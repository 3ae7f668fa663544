"""Jobs: budgets within the context, samples in order, defaults."""

import types

import pytest

from tests.train.serving.servers import served
from train.serving.parameters.body import Parameters
from train.serving.parameters.errors import ApiError
from train.serving.parameters.jobs import check_model, make_job


def job(prompts, max_tokens, **given):
    return make_job(Parameters(given), served(context=10), prompts, max_tokens, names=[f"prompt {n}" for n in prompts])


def test_budgets():
    assert [one.request.sampling.max_tokens for one in job([(1,), (1, 2, 3)], None).requests] == [10, 8]
    assert [one.request.sampling.max_tokens for one in job([(1,) * 10], 1).requests] == [1]
    with pytest.raises(ApiError, match="has 10 tokens and max_tokens is 2, more than .* at most 1 new tokens fit"):
        job([(1,) * 10], 2)
    with pytest.raises(ApiError, match="has 11 tokens, more than the model's context of 10; shorten it by 1 tokens"):
        job([(1,) * 11], 1)


def test_samples_of_equal_prompts_are_numbered_through():
    requests = job([(1,), (2,), (1,)], 1, n=2).requests
    assert [one.request.prompt for one in requests] == [(1,), (1,), (2,), (2,), (1,), (1,)]
    assert [one.request.sample_index for one in requests] == [0, 1, 0, 1, 2, 3]
    assert len({one.request.sampling.seed for one in requests}) == 1


def test_tokens_are_counted_once_for_each_prompt():
    assert job([(1, 2), (3,)], 1, n=5).num_prompt_tokens == 3


def test_ids_that_end_a_text():
    model = served(stop_tokens=(4, 5))
    given = {"stop_token_ids": [5, 6]}
    (one,) = make_job(Parameters(given), model, [(1,)], 1, names=["prompt"]).requests
    assert set(one.request.stop_tokens) == {4, 5, 6}
    (one,) = make_job(Parameters({**given, "ignore_eos": True}), model, [(1,)], 1, names=["prompt"]).requests
    assert (one.request.stop_tokens, one.request.end) == ((5, 6), None)


def test_no_model_means_the_only_one():
    check_model(Parameters({}), served())
    with pytest.raises(ApiError, match="no model 'b'"):
        check_model(Parameters({"model": "b"}), served())


def test_a_prompt_is_a_source_where_the_model_has_an_encoder():
    model = served(context=8, encoder=types.SimpleNamespace(start_token=3), longest_source=12)
    made = make_job(Parameters({}), model, [[1] * 12], None, names=["the prompt"])
    request = made.requests[0].request
    assert (request.prompt, request.source, request.sampling.max_tokens) == ((3,), (1,) * 12, 8)
    assert made.num_prompt_tokens == 12
    for length, most, words in (
        (14, 4, "the prompt has 14 tokens, more than the model's context of 12; shorten it by 2 tokens"),
        (12, 9, "max_tokens is 9, more than the model's context of 8 together; at most 8 new tokens fit"),
    ):
        with pytest.raises(ApiError, match=words):
            make_job(Parameters({}), model, [[1] * length], most, names=["the prompt"])
