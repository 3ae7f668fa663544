"""Errors in the form that clients of the OpenAI interface read."""

import json

import openai
import pytest

from train.serving.parameters.errors import ApiError, bad_parameter


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (429, "rate_limit_error"),
        (503, "server_error"),
    ],
)
def test_the_body_of_an_error(status, kind):
    response = ApiError(status, "no", parameter="n", code="c", headers={"retry-after": "5"}).response()
    assert (response.status_code, response.headers["retry-after"]) == (status, "5")
    assert json.loads(response.body) == {"error": {"message": "no", "type": kind, "param": "n", "code": "c"}}


def test_a_wrong_value_names_its_parameter():
    error = bad_parameter("top_p", "must be above 0")
    assert (error.status, error.message, error.parameter) == (400, "top_p must be above 0", "top_p")


def test_the_official_client_raises_its_own_errors(running):
    client = running.client()
    with pytest.raises(openai.BadRequestError, match="temperature must be 0") as refused:
        client.completions.create(model="tiny", prompt="a", temperature=-1)
    assert (refused.value.param, refused.value.code) == ("temperature", "invalid_value")
    with pytest.raises(openai.NotFoundError, match="no model 'huge'; its only model is 'tiny'"):
        client.completions.create(model="huge", prompt="a")
