"""Calls of tools in texts, as models write them."""

import json

import numpy as np
import pytest

from model.inference.constraint import Follower
from tests.model.inference.constraints import bits
from train.data import make_tokenizer
from train.data.config import Bytes
from train.generation.constraints import Constraints
from train.generation.tool_calls import Call, CallReader, CallStyle, form_of_calls, style_of

TAGS, LLAMA, BARE = CallStyle(has_tags=True), CallStyle(arguments="parameters"), CallStyle()
NAMES = ("add", "look")
ADD = '{"name": "add", "arguments": {"a": 1, "b": "ä"}}'
CALLS = [Call("add", '{"a": 1, "b": "ä"}'), Call("look", "{}")]


def read(style, text, size=1):
    """What is shown piece by piece, the rest, and the calls."""
    reader = CallReader(NAMES, style)
    shown = [reader.push(text[i : i + size]) for i in range(0, len(text), size)]
    return "".join(shown), *reader.finish()


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("style", "text", "expected"),
    [
        (TAGS, "plain <tool text", ("plain <tool text", [])),
        (TAGS, f"I add.\n<tool_call>\n{ADD}\n</tool_call>", ("I add.\n", CALLS[:1])),
        (TAGS, f'<tool_call>{ADD}</tool_call>\n<tool_call>{{"name": "look"}}</tool_call>', ("", CALLS)),
        (TAGS, f"<tool_call>{ADD}</tool_call> and then", (f"<tool_call>{ADD}</tool_call> and then", [])),
        (TAGS, "<tool_call>{not JSON</tool_call>", ("<tool_call>{not JSON</tool_call>", [])),
        (TAGS, ADD, (ADD, [])),
        (BARE, f" [{ADD}, " + '{"function": {"name": "look", "arguments": {}}}]', ("", CALLS)),
        (LLAMA, '{"name": "add", "parameters": {"a": 1, "b": "ä"}}', ("", CALLS[:1])),
        (BARE, '{"name": "other", "arguments": {}}', ('{"name": "other", "arguments": {}}', [])),
        (BARE, '{"name": "add", "arguments": "a"}', ('{"name": "add", "arguments": "a"}', [])),
        (BARE, '{"name": "add", "argu', ('{"name": "add", "argu', [])),
        (BARE, f"text {ADD}", (f"text {ADD}", [])),
        (BARE, "[]", ("[]", [])),
    ],
)
def test_calls_are_found_and_text_is_shown(style, text, expected, size):
    shown, rest, calls = read(style, text, size)
    assert (shown + rest, calls) == expected
    if expected[1]:
        assert rest == ""


def test_text_is_shown_as_soon_as_it_is_no_call():
    reader = CallReader(NAMES, TAGS)
    assert [reader.push(piece) for piece in ("a <to", "ol", "s>", "<tool_call>", "x")] == ["a ", "", "<tools>", "", ""]
    reader = CallReader(NAMES, BARE)
    assert [reader.push(piece) for piece in (" ", "he", "{")] == ["", " he", "{"]


@pytest.mark.parametrize(
    ("template", "marks", "style"),
    [
        ("{{ '<tool_call>' }}", (), TAGS),
        ("{{ '<tool_call>' }}", ("<tool_call>",), BARE),
        ('{"name": {{ n }}, "parameters": {{ a }}}', (), LLAMA),
        ("{{ tools | tojson }}", (), BARE),
    ],
)
def test_the_style_is_that_of_the_template(template, marks, style):
    assert style_of(template, marks) == style


TOOLS = {
    "add": {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/digit"}, "b": {"$ref": "#/$defs/digit"}},
        "required": ["a", "b"],
        "additionalProperties": False,
        "$defs": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}},
    },
    "look": {"type": "object", "properties": {}, "additionalProperties": False},
}


@pytest.mark.parametrize(("style", "several"), [(TAGS, True), (TAGS, False), (BARE, False), (LLAMA, True)])
def test_constrained_calls_are_read_back(style, several):
    tokenizer = make_tokenizer(Bytes(), [])
    constraint = Constraints(tokenizer).of(form_of_calls(TOOLS, style, several=several))
    rng, counts = np.random.default_rng(0), set()
    for _ in range(8):
        follower, ids = Follower(constraint, (256,), tokenizer.vocab_size), []
        while follower.ended_by is None and 256 not in ids:
            allowed = bits(follower.allowed_W)
            ids.append(256 if 256 in allowed and rng.random() < 0.5 else int(rng.choice([*set(allowed) - {256}])))
            if ids[-1] != 256:
                follower.accept(ids[-1])
        shown, rest, calls = read(style, tokenizer.decode(ids))
        assert (shown, rest) == ("", "")
        counts.add(len(calls))
        for call in calls:
            arguments = json.loads(call.arguments)
            assert arguments == {} if call.name == "look" else all(0 <= arguments[name] <= 9 for name in "ab")
    assert (max(counts) > 1) == (several and style is TAGS)
