"""Requests to an engine: their checks."""

import pytest

from model.inference.request import Request
from tests.model.inference.constraints import Steps


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"prompt": ()}, "prompt has no tokens"),
        ({"prompt": (1,), "sample_index": -1}, "sample_index must be 0 or more, got -1"),
        ({"prompt": (1,), "num_logprobs": -1}, "num_logprobs must be 0 or more"),
        ({"prompt": (1,), "num_prompt_logprobs": -2}, "num_prompt_logprobs must be 0 or more"),
        ({"prompt": (1,), "logit_bias": {3: float("nan")}}, "got nan for id 3"),
        ({"prompt": (1,), "logit_bias": {3: float("inf")}}, "got inf for id 3"),
        (
            {"prompt": (1,), "logit_bias": {3: -float("inf")}, "constraint": Steps(3)},
            "may leave the constraint no token",
        ),
        ({"prompt": (1, 2), "only_scores": True, "num_prompt_logprobs": 0, "constraint": Steps(3)}, "draws nothing"),
    ],
)
def test_invalid_fields_are_named(fields, problem):
    assert [" ".join(found) for found in Request(**fields).problems() if problem in " ".join(found)]


def test_a_forbidden_token_and_defaults_are_valid():
    assert not list(Request(prompt=(1,), logit_bias={3: -float("inf")}).problems())
