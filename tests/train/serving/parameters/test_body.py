"""Bodies: JSON within limits, every parameter read or refused by name."""

import socket

import pytest

from tests.train.serving.servers import serving
from train.serving.parameters.body import IGNORED, UNSUPPORTED, Parameters
from train.serving.parameters.errors import ApiError


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "is not JSON"),
        (b'{"prompt": "a"', "is not JSON"),
        (b'{"prompt": "\xff"}', "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b'{"temperature": NaN, "prompt": "a"}', "NaN is no JSON number"),
        (b"[" * 200_000, "has too many lists or objects inside one another"),
        (b'{"prompt": "a", "seed": 1' + b"0" * 5000 + b"}", "has a number of too many digits"),
    ],
)
def test_bodies_that_are_no_json(running, raw, words):
    status, _, answer = running.ask("POST", "/v1/completions", raw=raw)
    assert status == 400
    assert words in answer["error"]["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_type_is_refused(running, kind):
    status, _, answer = running.ask("POST", "/v1/completions", raw=b"{}", headers={"content-type": kind})
    assert status == 415
    assert "application/json" in answer["error"]["message"]


def test_a_type_with_an_encoding_is_json(running):
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert running.ask("POST", "/tokenize", raw=b'{"prompt": "a"}', headers=headers)[0] == 200


def test_large_and_slow_bodies():
    with serving(body_bytes=1000, body_seconds=0.2) as server:
        for size, headers in ((1000, {}), (10 << 20, {}), (1000, {"expect": "100-continue"})):
            status, answered, answer = server.ask("POST", "/v1/completions", {"prompt": "a" * size}, headers)
            assert (status, "connection" in answered) == (413, "expect" in headers)
            assert answer["error"]["message"].startswith("the body is larger than 1,000 bytes; send less")
        head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        for rest, said in (
            (f"transfer-encoding: chunked\r\n\r\n{600:x}\r\n{'a' * 600}\r\n" + f"{600:x}\r\n{'a' * 600}\r\n", b" 413 "),
            ('content-length: 50\r\n\r\n{"prompt": ', b" 408 "),
        ):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as one:
                one.sendall((head + rest).encode())
                assert said in one.recv(1 << 16).partition(b"\r\n")[0]
        assert server.post("/v1/completions", prompt="a")[0] == 200


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"temprature": 1}, "temprature", "unknown parameter temprature; did you mean temperature?"),
        ({"x" * 500: 1}, "x" * 80, "unknown parameter xxx"),
        ({"tools": [{"type": "function"}]}, "tools", "tools is not supported by this server; leave it out"),
        ({"suffix": "x"}, "suffix", "is not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "is not supported"),
        ({"temperature": "hot"}, "temperature", 'must be a number, got "hot"'),
        ({"temperature": True}, "temperature", "must be a number, got true"),
        ({"temperature": -1}, "temperature", "must be 0 (greedy) or more, got -1.0"),
        ({"temperature": 10**400}, "temperature", "must be a finite number"),
        ({"top_p": 0}, "top_p", "must be above 0 and at most 1, got 0.0"),
        ({"temperature": 0, "top_p": 7}, "top_p", "must be above 0 and at most 1, got 7.0"),
        ({"top_k": -3}, "top_k", "must be at least -1, got -3"),
        ({"min_p": 2}, "min_p", "must be from 0 to 1, got 2.0"),
        ({"repetition_penalty": 0}, "repetition_penalty", "must be above 0"),
        ({"max_tokens": 1.5}, "max_tokens", "must be a whole number, got 1.5"),
        ({"max_tokens": -1}, "max_tokens", "must be at least 1, got -1"),
        ({"n": 0}, "n", "must be from 1 to 128, got 0"),
        ({"n": 129}, "n", "must be from 1 to 128, got 129"),
        ({"seed": "x"}, "seed", 'must be a whole number, got "x"'),
        ({"stream": 1}, "stream", "must be true or false, got 1"),
        ({"stream_options": {}}, "stream_options", "must be an object, beside stream=true"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "unknown parameter"),
        ({"logprobs": 21}, "logprobs", "must be from 0 to 20, got 21"),
        ({"stop": ""}, "stop", "has an empty text; expected at least one character in each"),
        ({"stop": ["a", ""]}, "stop", "has an empty text"),
        ({"stop": 5}, "stop", "must be a text, or a list of texts, got 5"),
        ({"stop": ["a"] * 17}, "stop", "has 17 texts; at most 16 are looked for"),
        ({"stop_token_ids": [1, 999]}, "stop_token_ids", "has the id 999"),
        ({"stop_token_ids": "a"}, "stop_token_ids", 'must be a list of ids, got "a"'),
        ({"logit_bias": {"a": 1}}, "logit_bias", "has the key 'a'; expected ids"),
        ({"logit_bias": {"300": 1}}, "logit_bias", "has the id 300"),
        ({"logit_bias": {"3": 101}}, "logit_bias", "must be a number from -100 to 100 for id 3, got 101"),
        ({"logit_bias": {"3": None}}, "logit_bias", "must be a number from -100 to 100 for id 3, got null"),
        ({"logit_bias": []}, "logit_bias", "must be an object of numbers by id, got []"),
        ({"echo": "yes"}, "echo", 'must be true or false, got "yes"'),
        ({"model": 3}, "model", "must be a text, got 3"),
        ({"ignore_eos": 1}, "ignore_eos", "must be true or false"),
        ({"priority": 2**40}, "priority", "must be from -2147483648 to 2,147,483,647"),
    ],
)
def test_wrong_parameters_are_refused_by_name(running, body, param, words):
    error = running.error(**{"prompt": "a", **body})
    assert words in error["message"]
    assert error["param"] == param


def test_parameters_that_ask_for_nothing_are_accepted(running):
    nothing = {name: values[0] for name, values in UNSUPPORTED.items() if values}
    notes = dict.fromkeys(IGNORED, "x")
    status, answer = running.post("/v1/completions", prompt="a", **nothing, **notes, temperature=None)
    assert status == 200, answer


def test_each_unsupported_parameter_is_refused_with_a_value():
    for name in UNSUPPORTED:
        with pytest.raises(ApiError, match=f"{name} is not supported"):
            Parameters({name: {"some": "value"}}).finish()


def test_whole_numbers_may_be_written_as_floats():
    assert Parameters({"n": 3.0}).whole("n") == 3
