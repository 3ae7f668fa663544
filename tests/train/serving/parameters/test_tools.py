"""Tools in chats through the official client: calls, forced or free, whole and streamed, and the messages around."""

import json

import pytest

from tests.train.generation.engines import FakeEngine, spelling
from tests.train.serving.servers import served, serving

HELLO = [{"role": "user", "content": "hi"}]
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }} <tool_call>\n{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
    "{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %};{% endfor %}assistant: "
)
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "It.", "parameters": PARAMETERS}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
SAID = 'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n<tool_call>{"name": "clock"}</tool_call>'


@pytest.fixture(scope="module")
def tooled():
    engine = FakeEngine(spelling(SAID, end=256), context=4000, per_step=3)
    with serving(engine, served(context=4000, template=TEMPLATE)) as server:
        yield server


def ask(server, **given):
    given = {"model": "tiny", "messages": HELLO, "tools": [WEATHER, CLOCK], **given}
    return server.client().chat.completions.create(**given)


def calls_of(message):
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]


def test_calls_are_read_from_an_answer(tooled):
    (choice,) = ask(tooled).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see.\n"
    assert calls_of(choice.message) == [("weather", {"city": "Oslo"}), ("clock", {})]
    assert len({call.id for call in choice.message.tool_calls}) == 2
    prompt = bytes(tooled.engine.seen[-1].prompt).decode()
    assert prompt.startswith(json.dumps([WEATHER, CLOCK]))


def test_calls_in_a_stream(tooled):
    with tooled.client().chat.completions.stream(model="tiny", messages=HELLO, tools=[WEATHER, CLOCK]) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        (choice,) = stream.get_final_completion().choices
    assert "".join(pieces) == choice.message.content == "Let me see.\n"
    assert choice.finish_reason == "tool_calls"
    assert calls_of(choice.message) == [("weather", {"city": "Oslo"}), ("clock", {})]


def test_one_call_where_several_are_not_wanted(tooled):
    assert calls_of(ask(tooled, parallel_tool_calls=False).choices[0].message) == [("weather", {"city": "Oslo"})]


def test_without_a_choice_of_tools_the_answer_is_text(tooled):
    (choice,) = ask(tooled, tool_choice="none").choices
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (SAID, None, "stop")
    assert "weather" not in bytes(tooled.engine.seen[-1].prompt).decode()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", {"weather", "clock"}), ({"type": "function", "function": {"name": "clock"}}, {"clock"})],
)
def test_a_call_can_be_required(tooled, choice, names, stream):
    answer = ask(tooled, tool_choice=choice, n=3, stream=stream, parallel_tool_calls=False)
    if stream:
        found = [call for chunk in answer for call in chunk.choices[0].delta.tool_calls or ()]
    else:
        assert {one.finish_reason for one in answer.choices} == {"tool_calls"}
        assert {one.message.content for one in answer.choices} == {None}
        found = [call for one in answer.choices for call in one.message.tool_calls]
    assert len(found) == 3
    assert {call.function.name for call in found} <= names
    for call in found:
        city = json.loads(call.function.arguments)
        assert city == {} if call.function.name == "clock" else city["city"] in ("Oslo", "Rome")


def test_messages_around_calls_reach_the_template(tooled):
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    ask(tooled, messages=messages)
    call["function"]["arguments"] = {"city": "Rome"}
    prompt = bytes(tooled.engine.seen[-1].prompt).decode()
    assert prompt.endswith(f"user: hi;assistant: {json.dumps([call])};tool: rain(c1);assistant: ")
    count = tooled.post("/tokenize", messages=messages, tools=[WEATHER, CLOCK])[1]["count"]
    assert count == len(prompt)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"tools": {}}, "tools", "must be a list of objects"),
        ({"tools": [3]}, "tools[0]", "must be an object with type and function"),
        ({"tools": [{"type": "web"}]}, "tools[0].type", 'must be function, got "web"'),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "must be an object with a name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "letters, digits"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": 3}}]},
            "tools[0].function.parameters",
            "must be a JSON schema",
        ),
        ({"tools": [CLOCK, CLOCK]}, "tools", "two tools of one name"),
        ({"tools": [CLOCK] * 129}, "tools", "has 129 tools; at most 128"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tool_choice": "any"}, "tool_choice", "must be none, auto, required, or"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "'x', which is not among"),
        ({"tool_choice": "required", "guided_regex": "a"}, "guided_regex", "is given beside tool_choice"),
        (
            {"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "objec"}}}]},
            "tools",
            "tools: the grammar cannot be used",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]},
            "messages[0].tool_calls[0]",
            "must be an object with an id",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}]},
            "messages[0].tool_calls[0].function.arguments",
            "must be JSON",
        ),
    ],
)  # fmt: skip
def test_refusals(tooled, body, param, words):
    error = tooled.error("/v1/chat/completions", **{"messages": HELLO, "tools": [WEATHER], **body})
    assert words in error["message"]
    assert error["param"] == param


def test_a_template_that_shows_no_tools_is_named(running):
    error = running.error("/v1/chat/completions", messages=HELLO, tools=[CLOCK])
    assert error["code"] == "no_tools_in_template"
    assert "--chat_template" in error["message"]
