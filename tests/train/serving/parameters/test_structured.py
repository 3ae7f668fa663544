"""`response_format` and its kin through the official client: what is drawn keeps to them, and refusals name them."""

import json
import re
import sys

import jsonschema
import pytest

from tests.train.generation.engines import FakeEngine
from tests.train.serving.servers import served, serving

HELLO = [{"role": "user", "content": "hi"}]
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 9}, "kind": {"enum": ["cat", "dog"]}},
    "required": ["age", "kind"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA, "strict": True}}


@pytest.fixture(scope="module")
def roomy():
    with serving(FakeEngine(context=900), served(context=900)) as server:
        yield server


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_answers_in_the_form_of_a_schema(roomy, stream):
    create = roomy.client().chat.completions.create
    answer = create(model="tiny", messages=HELLO, response_format=FORMAT, n=2, stream=stream)
    if stream:
        choices = [chunk.choices[0] for chunk in answer]
        texts = ["".join(c.delta.content or "" for c in choices if c.index == index) for index in range(2)]
        ends = [c.finish_reason for c in choices if c.finish_reason]
    else:
        texts = [choice.message.content for choice in answer.choices]
        ends = [choice.finish_reason for choice in answer.choices]
    assert ends == ["stop", "stop"]
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize(
    ("given", "is_right"),
    [
        ({"response_format": {"type": "text"}}, lambda text: text == "bcdefghij"),
        ({"structured_outputs": {"choice": ["cat", "dog"]}}, lambda text: text in ("cat", "dog")),
        ({"structured_outputs": {"regex": "[0-9]{3}"}}, lambda text: re.fullmatch("[0-9]{3}", text)),
        ({"structured_outputs": {"grammar": 'start: "a" "b"'}}, lambda text: text == "ab"),
        ({"guided_choice": ["cat"]}, lambda text: text == "cat"),
        ({"guided_json": json.dumps({"enum": [1, True]})}, lambda text: json.loads(text) in (1, True)),
    ],
)
def test_completions_keep_to_a_form(roomy, given, is_right):
    status, answer = roomy.post("/v1/completions", prompt="a", max_tokens=9, **given)
    assert status == 200
    assert is_right(answer["choices"][0]["text"])


def test_any_object(roomy):
    answer = roomy.post("/v1/completions", prompt="a", max_tokens=1, response_format={"type": "json_object"})[1]
    assert answer["choices"][0]["text"] == "{"
    answer = roomy.post("/v1/completions", prompt="a", max_tokens=1, structured_outputs={"json_object": True})[1]
    assert answer["choices"][0]["text"] == "{"


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (
            {"response_format": "json"},
            "response_format",
            'must be an object such as {"type": "json_object"}, got "json"',
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type", "must be text, json_object or json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "goes with type=json_schema"),
        ({"response_format": {"type": "text", "x": 1}}, "response_format.x", "unknown parameter response_format.x"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
            "is missing",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "strin"}}}},
            "response_format",
            "response_format: the JSON schema cannot be used: Invalid type: strin",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "names none of json, regex, choice, grammar"),
        ({"structured_outputs": {"regexp": "a"}}, "structured_outputs.regexp", "did you mean"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "must be a list of texts, got []"),
        ({"guided_choice": ["a"] * 10_001}, "guided_choice", "has 10,001 texts, more than 10,000"),
        ({"guided_json": "{"}, "guided_json", "must be a JSON schema"),
        ({"guided_json": [1]}, "guided_json", "must be a JSON schema, an object"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "is given beside guided_regex"),
        ({"guided_regex": "(a"}, "guided_regex", "guided_regex: the regular expression cannot be used"),
        ({"guided_regex": "[^\\x00-\\u{10FFFF}]"}, "guided_regex", "guided_regex: "),
    ],
)
def test_refusals(roomy, body, param, words):
    error = roomy.error("/v1/completions", prompt="a", **body)
    assert words in error["message"]
    assert error["param"] == param


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with serving() as server:
        error = server.error("/v1/completions", prompt="a", guided_regex="a")
        assert error["code"] == "constraints_not_installed"
        assert "pip install 'cairn-lm[constrained]'" in error["message"]
        assert server.post("/v1/completions", prompt="a")[0] == 200


def test_a_dead_end_is_an_error():
    class Lost(FakeEngine):
        def submit(self, request):
            number = super().submit(request)
            self.live[number] = (request, iter(["dead_end"]), [])
            return number

    with serving(Lost()) as server:
        error = server.error("/v1/completions", status=500, prompt="a", guided_regex="a")
        assert (error["code"], error["type"]) == ("dead_end", "server_error")
