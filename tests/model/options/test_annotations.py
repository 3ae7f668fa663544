from typing import Literal

import pytest

from model.options.annotations import has_type
from tests.model.carts import Ski, Wheel


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (True, float, False),
        ("1", float, False),
        (True, bool, True),
        (1, bool, False),
        (None, int | None, True),
        (None, int, False),
        ("red", Literal["red", "blue"], True),
        ("green", Literal["red", "blue"], False),
        (True, Literal[1, 2], False),
        ((1, 2.5), tuple[float, ...], True),
        ((1, "2"), tuple[float, ...], False),
        ([1], tuple[float, ...], False),
        ((), tuple[Wheel, ...], True),
        (Wheel(), Wheel | Ski, True),
        (Wheel(), Ski, False),
        (Wheel, Wheel, False),
    ],
)
def test_conforms(value, annotation, fits):
    assert has_type(value, annotation) is fits
