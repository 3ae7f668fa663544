"""The table of instruments: functions take the flags of their rows; unknown names are refused with the nearest."""

import inspect

import pytest

from model.errors import UserError
from train.inspection import table


@pytest.mark.parametrize("name", table.INSTRUMENTS)
def test_a_function_takes_the_flags_of_its_row(name):
    row = table.INSTRUMENTS[name]
    run, *others = inspect.signature(table.function_of(row)).parameters.values()
    assert [each.name for each in others] == ["folder"] * row.takes_folder + list(row.flags)
    assert run.name == "run"
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in others)
    assert set(row.flags) <= set(table.FLAGS)


def test_every_flag_belongs_to_an_instrument():
    assert set(table.FLAGS) == {flag for row in table.INSTRUMENTS.values() for flag in row.flags}


def test_an_unknown_instrument_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'attention'"):
        table.find("atention")
    assert table.find("attention").module == "train.inspection.attention.maps"


def test_flags_without_effect_and_missing_flags_are_refused():
    table.refuse("attention", {"text": "a"})
    with pytest.raises(UserError, match="--wheel has no effect with attention, which takes --text"):
        table.refuse("attention", {"text": "a", "wheel": 1})
    with pytest.raises(UserError, match="--text is missing, which attention needs"):
        table.refuse("attention", {"layers": [0]})
    with pytest.raises(UserError, match="--examples must be at least 1, got 0"):
        table.refuse("neurons", {"examples": 0})


def test_the_listing_has_a_line_for_each():
    lines = table.listing().splitlines()
    assert [line.split()[0] for line in lines] == list(table.INSTRUMENTS)
