"""The attributes and checks of every position option."""

from model.options.annotations import option_classes
from model.positions.absolute import Position, Sinusoidal
from model.positions.option import PositionOption
from model.positions.rotary import Rotary


def test_which_positions_are_added_and_which_turn():
    classes = option_classes(Position)
    assert all(issubclass(cls, PositionOption) for cls in classes.values())
    assert {name for name, cls in classes.items() if cls.adds_to_embedding} == {"Learned", "Sinusoidal"}
    assert {name for name, cls in classes.items() if cls.rotates} == {"Rotary"}


def test_what_does_not_go_together_with_a_width():
    assert [list(p.problems_of_width(7)) for p in (Rotary(), Sinusoidal())] == [
        [],
        ["Sinusoidal pairs a sine with a cosine, so width must be even, got 7"],
    ]
    assert list(Sinusoidal().problems_with(7, "position")) == []
    assert [path for path, _ in Rotary().problems_with(7, "position")] == ["position"]
