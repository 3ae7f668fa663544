"""Reasons are asked in order, and the first is the answer."""

from model.kernels import refusals


def test_the_first_reason():
    assert refusals.first(iter(["one", "two"])) == "one"
    assert refusals.first(iter([])) is None


def test_a_generator_is_asked_only_for_its_first():
    def reasons():
        yield "one"
        raise AssertionError("not asked")

    assert refusals.first(reasons()) == "one"
