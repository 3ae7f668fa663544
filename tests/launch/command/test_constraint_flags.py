"""The flags of constraints as forms."""

import types

import pytest

from launch.command.constraint_flags import ConstraintFlags, form_of, is_given
from model.errors import UserError
from train.generation.constraints import Form


def given(**values):
    flags = {name: values.get(name, [] if name == "choice" else None) for name in ConstraintFlags._fields}
    return ConstraintFlags(**{name: types.SimpleNamespace(name=name, value=value) for name, value in flags.items()})


def test_each_flag_gives_a_form(tmp_path):
    assert form_of(given()) is None
    assert not is_given(given())
    assert is_given(given(regex=""))
    assert form_of(given(regex="a|b")) == Form("regex", "a|b")
    assert form_of(given(choice=["a", "ä"])) == Form.choice(["a", "ä"])
    path = tmp_path / "form"
    path.write_text('\ufeff{"type": "object"}')
    assert form_of(given(json_schema=str(path))) == Form("json", '{"type": "object"}')
    assert form_of(given(grammar=str(path))).kind == "grammar"


def test_mistakes_name_the_flag(tmp_path):
    with pytest.raises(UserError, match="--json_schema and --choice both say which texts may be drawn"):
        form_of(given(json_schema="x", choice=["a"]))
    with pytest.raises(UserError, match=r"--grammar=.*/none cannot be read: No such file"):
        form_of(given(grammar=str(tmp_path / "none")))
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"--json_schema=.*/latin is not UTF-8 at byte 3"):
        form_of(given(json_schema=str(tmp_path / "latin")))
