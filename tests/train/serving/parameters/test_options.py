"""Limits that cannot be are refused by name."""

import pytest

from model.options.tree import find_problems
from train.serving.parameters.options import LOCAL_HOSTS, Limits


def test_limits():
    assert find_problems(Limits()) == []
    assert find_problems(Limits(waiting=0, drain_seconds=0.0)) == []
    assert "127.0.0.1" in LOCAL_HOSTS


@pytest.mark.parametrize("name", ["body_bytes", "header_seconds", "body_seconds", "request_seconds", "connections"])
def test_a_limit_of_nothing(name):
    zero = type(getattr(Limits(), name))(0)
    assert find_problems(Limits(**{name: zero})) == [f"{name}: must be above 0, got {zero}"]


@pytest.mark.parametrize("name", ["waiting", "drain_seconds"])
def test_a_limit_below_nothing(name):
    minus = type(getattr(Limits(), name))(-1)
    assert find_problems(Limits(**{name: minus})) == [f"{name}: must be 0 or more, got {minus}"]
