"""Paths, keys and hosts: who may ask what, and how those are refused who may not."""

import openai
import pytest

from tests.train.serving.servers import serving


@pytest.fixture(scope="module")
def locked():
    with serving(api_key="s3cret") as server:
        yield server


def test_models(running):
    (model,) = running.client().models.list().data
    assert (model.id, model.created, model.owned_by, model.max_model_len) == ("tiny", 1, "cairn", 64)
    assert running.client().models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        running.client().models.retrieve("other")


def test_tokens(running):
    assert running.post("/tokenize", prompt="aé") == (
        200,
        {"count": 4, "max_model_len": 64, "tokens": [256, 97, 195, 169]},
    )
    plain = running.post("/tokenize", prompt="aé", add_special_tokens=False, return_token_strs=True, model="tiny")[1]
    assert (plain["tokens"], plain["token_strs"]) == ([97, 195, 169], ["a", "token_id:195", "token_id:169"])
    chat = running.post("/tokenize", messages=[{"role": "user", "content": "hi"}])[1]
    assert bytes(chat["tokens"]).decode() == "user: hi\nassistant: "
    assert running.post("/detokenize", tokens=[256, 97, 195, 169]) == (200, {"prompt": "aé"})
    assert running.post("/detokenize", tokens=[])[1] == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/tokenize", {}, "prompt is missing; give a text, or messages"),
        ("/tokenize", {"prompt": 3}, "prompt must be a text, got 3"),
        ("/tokenize", {"prompt": "a", "x": 1}, "unknown parameter x"),
        ("/detokenize", {}, "tokens must be a list of ids, got null"),
        ("/detokenize", {"tokens": [1, 257]}, "tokens has the id 257; the vocabulary is 0 to 256"),
        ("/detokenize", {"tokens": [1], "x": 1}, "unknown parameter x"),
    ],
)
def test_bad_tokens(running, path, body, words):
    assert words in running.error(path, **body)["message"]


def test_health(running):
    assert running.ask("GET", "/health")[::2] == (200, "ok\n")


def test_other_paths_and_methods(running):
    status, _, answer = running.ask("GET", "/v2/x")
    assert (status, answer["error"]["message"]) == (404, "there is no /v2/x")
    status, headers, answer = running.ask("GET", "/v1/completions")
    assert (status, headers["allow"]) == (405, "POST")
    assert answer["error"]["message"] == "GET /v1/completions: Method Not Allowed"


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v1/models/tiny"])
def test_a_key_is_needed(locked, path):
    for headers, words in (
        ({}, "no key; send it as authorization: Bearer KEY"),
        ({"authorization": "Bearer wrong"}, "wrong key"),
        ({"authorization": "Basic s3cret"}, "no key; send it as authorization: Bearer KEY"),
        ({"authorization": "Bearer clé".encode("latin-1")}, "wrong key"),
    ):
        status, answered, answer = locked.ask("GET", path, headers=headers)
        assert (status, answered["www-authenticate"]) == (401, "Bearer")
        assert (answer["error"]["message"], answer["error"]["code"]) == (words, "invalid_api_key")
    assert locked.ask("GET", path, headers={"authorization": "Bearer s3cret"})[0] == 200


def test_the_client_with_a_key(locked):
    asked = {"model": "tiny", "prompt": "a", "max_tokens": 1}
    assert locked.client("s3cret").completions.create(**asked).choices[0].text == "b"
    with pytest.raises(openai.AuthenticationError, match="wrong key"):
        locked.client("wrong").completions.create(**asked)
    assert locked.ask("GET", "/")[0] == locked.ask("GET", "/health")[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", ""])
def test_without_a_key_only_this_machine_is_served(running, locked, host):
    status, _, answer = running.ask("GET", "/v1/models", headers={"host": host})
    assert status == 403
    assert "this server without a key is for 127.0.0.1, localhost, ::1" in answer["error"]["message"]
    headers = {"host": host, "authorization": "Bearer s3cret"}
    assert locked.ask("GET", "/v1/models", headers=headers)[0] == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:123", "127.0.0.1:8000", "[::1]:8000", "[::1]"])
def test_names_of_this_machine(running, host):
    assert running.ask("GET", "/health", headers={"host": host})[0] == 200
