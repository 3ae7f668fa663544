"""/v1/completions through the official client and by plain HTTP: prompts of every form, echo, logprobs, streams, stops."""

import types

import pytest

from tests.train.generation.engines import FakeEngine, spelling
from tests.train.serving.servers import served, serving
from train.serving.completions import completion_job
from train.serving.parameters.body import Parameters
from train.serving.parameters.errors import ApiError


@pytest.fixture(scope="module")
def complete(running):
    client = running.client()
    return lambda **given: client.completions.create(**{"model": "tiny", "prompt": "abc", "max_tokens": 4, **given})


@pytest.mark.parametrize(
    ("prompt", "texts", "tokens"),
    [
        ("abc", ["defg"], 4),
        (["abc", "xy"], ["defg", "zabc"], 7),
        ([97, 98], ["cdef"], 2),
        ([[97], [120, 121]], ["bcde", "zabc"], 3),
        (["abc", "abc"], ["defg", "efgh"], 8),  # equal prompts are samples of their own
    ],
)
def test_prompts_of_every_form(complete, prompt, texts, tokens):
    answer = complete(prompt=prompt)
    assert [choice.text for choice in answer.choices] == texts
    assert [choice.index for choice in answer.choices] == list(range(len(texts)))
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert (answer.object, answer.model) == ("text_completion", "tiny")
    assert answer.usage.to_dict() == {
        "prompt_tokens": tokens,
        "completion_tokens": 4 * len(texts),
        "total_tokens": tokens + 4 * len(texts),
    }


def test_samples_of_a_prompt_come_in_order(complete):
    answer = complete(prompt=["a", "m"], n=3, max_tokens=2)
    assert [choice.text for choice in answer.choices] == ["bc", "cd", "de", "no", "op", "pq"]
    assert answer.usage.prompt_tokens == 4


def test_default_number_of_tokens(running):
    assert len(running.post("/v1/completions", prompt="a")[1]["choices"][0]["text"]) == 16


def test_echo_with_log_probabilities(complete):
    answer = complete(prompt=[97, 98, 99], echo=True, logprobs=2, max_tokens=2)
    (choice,) = answer.choices
    assert choice.text == "abcde"
    assert choice.logprobs.to_dict() == {
        "tokens": ["a", "b", "c", "d", "e"],
        "token_logprobs": [None, -0.98, -0.99, -1.0, -1.01],
        "top_logprobs": [
            None,
            {"a": -0.97, "b": -0.98},
            {"a": -0.97, "b": -0.98, "c": -0.99},
            {"a": -0.97, "b": -0.98, "d": -1.0},
            {"a": -0.97, "b": -0.98, "e": -1.01},
        ],
        "text_offset": [0, 1, 2, 3, 4],
    }


def test_echo_alone_and_the_prompt_alone(complete, running):
    assert complete(echo=True).choices[0].text == "abcdefg"
    answer = complete(prompt="é", echo=True, max_tokens=0, logprobs=0)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason, answer.usage.completion_tokens) == ("é", "length", 0)
    assert choice.logprobs.tokens == ["token_id:256", "token_id:195", "token_id:169"]  # the mark, and two halves
    assert choice.logprobs.text_offset == [0, 0, 0]
    assert running.error(prompt="a", max_tokens=0)["param"] == "max_tokens"


def test_tokens_by_id(complete):
    answer = complete(prompt=[97], logprobs=1, max_tokens=1, extra_body={"return_tokens_as_token_ids": True})
    assert answer.choices[0].logprobs.tokens == ["token_id:98"]
    assert answer.choices[0].logprobs.top_logprobs == [{"token_id:97": -0.97, "token_id:98": -0.98}]


@pytest.mark.parametrize("stop", ["g", ["zz", "gh"]])
def test_a_stop_string(complete, stop):
    answer = complete(stop=stop, max_tokens=20, logprobs=0)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("def", "stop")
    assert choice.logprobs.tokens == ["d", "e", "f"]
    assert answer.usage.completion_tokens == 3 + len(stop[-1])


@pytest.mark.parametrize("given", [{}, {"n": 2}, {"echo": True, "logprobs": 1}, {"stop": "f", "logprobs": 0}])
def test_a_stream_says_what_the_whole_answer_says(complete, given):
    whole = complete(prompt=["abc", "k"], **given)
    *chunks, last = complete(prompt=["abc", "k"], stream=True, stream_options={"include_usage": True}, **given)
    assert last.usage == whole.usage
    assert all(chunk.usage is None and chunk.id == last.id for chunk in chunks)
    for choice in whole.choices:
        parts = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert [part.finish_reason for part in parts if part.finish_reason] == [choice.finish_reason]
        if choice.logprobs is not None:
            for name, values in choice.logprobs.to_dict().items():
                assert [x for part in parts for x in getattr(part.logprobs, name)] == values
    assert len(chunks) > len(whole.choices)


def test_a_stream_splits_no_character():
    text = "é漢🙂!"
    with serving(FakeEngine(spelling(text, end=256))) as server:
        chunks = list(server.client().completions.create(model="tiny", prompt="a", max_tokens=40, stream=True))
    pieces = [chunk.choices[0].text for chunk in chunks]
    assert pieces == ["é", "漢", "🙂", "!", ""]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_engine_gets_what_was_asked_for(running):
    running.post(
        "/v1/completions",
        prompt="q",
        max_tokens=1,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        repetition_penalty=1.2,
        seed=-1,
        n=2,
        logit_bias={"98": -100, "5": 3.5},
        stop_token_ids=[7],
        priority=3,
        user="me",
        metadata={},
        presence_penalty=0,
        suffix=None,
    )
    first, second = running.engine.seen[-2:]
    sampling = first.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 7, 0.1)
    assert (sampling.repetition_penalty, sampling.seed, sampling.max_tokens) == (1.2, 2**32 - 1, 1)
    assert (dict(first.logit_bias), first.stop_tokens, first.priority) == ({98: -100, 5: 3.5}, (7,), 3)
    assert (first.begin, first.end, first.num_logprobs, first.num_prompt_logprobs) == (256, 256, None, None)
    assert (first.sample_index, second.sample_index) == (0, 1)
    running.post("/v1/completions", prompt="q", max_tokens=1, temperature=0, top_p=0.9, top_k=-1, ignore_eos=True)
    greedy = running.engine.seen[-1]
    assert (greedy.sampling.temperature, greedy.sampling.top_p, greedy.sampling.top_k) == (0, None, None)
    assert (greedy.end, greedy.stop_tokens) == (None, ())


def test_without_a_seed_each_request_has_its_own(running):
    for _ in range(2):
        running.post("/v1/completions", prompt="q", max_tokens=1)
    first, second = running.engine.seen[-2:]
    assert first.sampling.seed != second.sampling.seed


def test_as_lm_eval_scores_a_continuation(running):
    """Its local-completions sends ids of context and continuation, and reads log-probabilities at their places."""
    context, continuation = [97, 98], [99, 101]
    status, answer = running.post(
        "/v1/completions",
        model="tiny",
        prompt=[context + continuation],
        temperature=0,
        max_tokens=1,
        logprobs=1,
        seed=1234,
        echo=True,
    )
    assert status == 200
    found = answer["choices"][0]["logprobs"]
    scores = found["token_logprobs"][len(context) : -1]
    assert scores == [-0.99, -1.01]
    likeliest = found["top_logprobs"][len(context) : -1]
    assert [score == max(top.values()) for score, top in zip(scores, likeliest)] == [False, False]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "prompt", "is missing; give a text"),
        ({"prompt": []}, "prompt", "must be a text, a list of texts, ids, or a list of lists of ids, got []"),
        ({"prompt": 3}, "prompt", "got 3"),
        ({"prompt": [["a"]]}, "prompt", "number 1 is neither a text nor a list of ids"),
        ({"prompt": ["a", 3]}, "prompt", "number 2 is neither"),
        ({"prompt": [[]]}, "prompt", "number 1 is neither"),
        ({"prompt": [True]}, "prompt", "number 1 is neither"),
        ({"prompt": [257]}, "prompt", "has the id 257; the vocabulary is 0 to 256"),
        ({"prompt": "a\ud800"}, "prompt", "is not UTF-8 at character 1"),
        (
            {"prompt": "x" * 64, "max_tokens": 1},
            "prompt",
            "has 65 tokens, more than the model's context of 64; shorten it",
        ),
        ({"prompt": "abc", "max_tokens": 62}, "max_tokens", "4 tokens and max_tokens is 62"),
    ],
)
def test_refused_prompts(running, body, param, words):
    error = running.error(**body)
    assert words in error["message"]
    assert error["param"] == param


def test_a_prompt_that_an_encoder_reads():
    """It ends as sources do in training, and is not repeated in the answer."""
    model = served(encoder=types.SimpleNamespace(start_token=3), longest_source=8)
    request = completion_job(Parameters({"prompt": "ab"}), model).requests[0].request
    assert (request.prompt, request.source) == ((3,), (*b"ab", model.tokenizer.end_of_document))
    as_it_is = completion_job(Parameters({"prompt": "ab", "add_special_tokens": False}), model).requests[0].request
    assert as_it_is.source == tuple(b"ab")
    with pytest.raises(ApiError, match="echo has no effect: the model reads a prompt as a source"):
        completion_job(Parameters({"prompt": "ab", "echo": True}), model)
