from typing import Literal

import pytest

from model.options.words import describe, format_value, nearest
from tests.model.carts import Ski, Wheel


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int | None, "int or None"),
        (Literal["red", "blue"], "'red' or 'blue'"),
        (tuple[float, ...], "a tuple of float"),
        (Wheel | Ski, "Wheel(...) or Ski(...)"),
        (str | tuple[str, ...], "str or a tuple of str"),
    ],
)
def test_describe(annotation, words):
    assert describe(annotation) == words


def test_nearest_names_the_closest_word_or_lists_all():
    assert nearest("radus", ["spokes", "radius"]) == "did you mean 'radius'?"
    assert nearest("zzz", ["spokes", "radius"]) == "known: radius, spokes"
    assert nearest("zzz", []) == "known: none"


def test_shown_is_never_long():
    assert format_value("x" * 1000) == f"'{'x' * 159}... (1,002 characters)"
    assert format_value(10**5000) == "a number of thousands of digits"
