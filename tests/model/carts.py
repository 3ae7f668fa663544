"""Options that belong to no model, for tests that hold for all options."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import pytest

from model.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wheel:
    radius: float = 0.3
    spokes: int = 32

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.radius <= 0:
            yield "radius", f"must be above 0, got {self.radius}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ski:
    length: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cart:
    name: str
    runner: Wheel | Ski = Wheel()
    spare: Wheel | None = None
    colour: Literal["red", "blue"] = "red"
    loads: tuple[float, ...] = ()
    wheels: tuple[Wheel, ...] = (Wheel(), Wheel(radius=0.5))
    places: str | tuple[str, ...] = "here"
    limit: int | None = None
    brake: bool = False


CART = Cart(name="one")


def refused(action, *expected):
    """Runs an action that a user must be told about, and looks for each piece of what they must be told."""
    with pytest.raises(UserError) as caught:
        action()
    for piece in expected:
        assert piece in str(caught.value), str(caught.value)
    return str(caught.value)
