"""/v1/chat/completions through the official client: templates, roles, streams, log-probabilities, refusals."""

import pytest

from tests.train.serving.servers import served, serving

HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def chat(running):
    client = running.client()
    return lambda **given: client.chat.completions.create(
        **{"model": "tiny", "messages": HELLO, "max_tokens": 4, **given}
    )


def prompt_of(running):
    return bytes(running.engine.seen[-1].prompt).decode()


def test_an_answer(chat, running):
    answer = chat()
    assert prompt_of(running) == "user: hi\nassistant: "
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "opqr", "length")
    assert answer.usage.to_dict() == {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}
    assert answer.object == "chat.completion"


def test_without_a_limit_an_answer_may_fill_the_context(running):
    (choice,) = running.post("/v1/chat/completions", messages=HELLO)[1]["choices"]
    assert len(choice["message"]["content"]) == 64 + 1 - 20


def test_streams(chat):
    *chunks, usage = chat(stream=True, n=2, stream_options={"include_usage": True})
    for index, text in enumerate(("opqr", "pqrs")):
        parts = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert parts[0].delta.role == "assistant"
        assert "".join(part.delta.content or "" for part in parts) == text
        assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + ["length"]
    assert usage.usage.completion_tokens == 8
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


def test_the_stream_helper_of_the_client(running):
    with running.client().chat.completions.stream(model="tiny", messages=HELLO, stop="r") as stream:
        assert stream.get_final_completion().choices[0].message.content == "opq"


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(chat, stream):
    answer = chat(logprobs=True, top_logprobs=1, max_tokens=2, stream=stream)
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    entries = [entry.to_dict() for choice in choices for entry in (choice.logprobs.content if choice.logprobs else ())]
    top = [{"token": "a", "bytes": [97], "logprob": -0.97}]
    assert entries == [
        {"token": "o", "bytes": [111], "logprob": -1.11, "top_logprobs": top},
        {"token": "p", "bytes": [112], "logprob": -1.12, "top_logprobs": top},
    ]


def test_messages(chat, running):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    chat(messages=[{"role": "system", "content": "s"}, {"role": "user", "content": parts, "name": "ann"}])
    assert prompt_of(running) == "system: s\nuser: a\nb\nassistant: "


def test_variables_of_the_template_and_a_continued_message(chat, running):
    chat(extra_body={"chat_template_kwargs": {"prefix": ">"}})
    assert prompt_of(running) == "user: hi\n>assistant: "
    begun = [*HELLO, {"role": "assistant", "content": "well"}]
    chat(messages=begun, extra_body={"continue_final_message": True, "add_generation_prompt": False})
    assert prompt_of(running) == "user: hi\nassistant: well"


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"messages": None}, "messages", "must be a list with at least one message, got null"),
        ({"messages": []}, "messages", "must be a list with at least one message, got []"),
        ({"messages": ["hi"]}, "messages[0]", "must be an object with a role and a content"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "is missing"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "must be a text, or a list of parts"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "got 3"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "is not UTF-8"),
        ({"messages": [*HELLO, {"role": "user", "content": "x", "age": 3}]}, "messages[1].age", "unknown parameter"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
            "this model reads text alone",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
            "messages[0].tool_calls[0]",
            "must be an object with an id, type=function, and a function",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "refuses these messages: no tools here"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs=true"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "is 3, and max_completion_tokens 4"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt", "the opposite"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "an object of variables"),
        ({"messages": [{"role": "user", "content": "x" * 60}]}, "messages", "more than the model's context of 64"),
        ({"echo": True}, "echo", "unknown parameter echo"),
        ({"prompt": "x"}, "prompt", "unknown parameter prompt"),
    ],
)
def test_refusals(running, body, param, words):
    error = running.error("/v1/chat/completions", **{"messages": HELLO, **body})
    assert words in error["message"]
    assert error["param"] == param


def test_a_model_without_a_template_says_so():
    with serving(model=served(template=None)) as server:
        error = server.error("/v1/chat/completions", messages=HELLO)
        assert "has no chat template" in error["message"]
        assert "--chat_template=FILE" in error["message"]
        assert error["code"] == "no_chat_template"
