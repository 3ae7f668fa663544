import math

import pytest

from model.options.words import format_value
from train.files.schema import conforming, violations

STATUS = {"state": str, "step": int, "reason?": (str, type(None))}
TABLE = [{"name?": str, "loss?": float}]


@pytest.mark.parametrize(
    ("value", "schema", "found"),
    [
        ({"state": "finished", "step": 3}, STATUS, []),
        ({"state": "finished", "step": 3, "reason": None, "more": [1]}, STATUS, []),
        ({"state": 5}, STATUS, ["state: expected a text, got 5", "step: is missing"]),
        ({"state": "x", "step": 3.0}, STATUS, ["step: expected a whole number, got 3.0"]),
        ({"state": "x", "step": True}, STATUS, ["step: expected a whole number, got True"]),
        ({"state": "x", "step": 2**63}, STATUS, ["step: expected a whole number, got 9223372036854775808"]),
        ({"state": "x", "step": 1, "reason": 2}, STATUS, ["reason: expected a text or null, got 2"]),
        ([], STATUS, ["the whole value: expected an object, got []"]),
        ([{"name": "a", "loss": 1}, {"loss": math.inf}, {}], TABLE, []),
        ([{"loss": 10**400}], TABLE, [f"0.loss: expected a number, got {format_value(10**400)}"]),
        ([{}, 3], TABLE, ["1: expected an object, got 3"]),
        ({"a": 1, "b": "x"}, {...: int}, ["b: expected a whole number, got 'x'"]),
        ({"a": [{}]}, {"a": object}, []),
    ],
)
def test_violations_name_each_path(value, schema, found):
    assert list(violations(value, schema)) == found


@pytest.mark.parametrize(
    ("value", "schema", "kept"),
    [
        (
            {"state": "finished", "step": "x", "reason": None, "more": 1},
            STATUS,
            {"state": "finished", "reason": None, "more": 1},
        ),
        ({"state": None, "step": 1}, STATUS, {"step": 1}),
        ([{"name": "a"}, 3, {"loss": "x"}], TABLE, [{"name": "a"}, {}]),
        ("x", STATUS, None),
        ({"a": 1, "b": "x"}, {...: int}, {"a": 1}),
    ],
)
def test_conforming_keeps_valid_parts(value, schema, kept):
    assert conforming(value, schema) == kept
