"""Flags of instruments: each row of the table is a flag, and a text has a file beside it."""

import pytest
from absl import flags

from launch.command.instrument_flags import _read, _value
from model.errors import UserError


def holder(name, value):
    registry = flags.FlagValues()
    made = flags.DEFINE_list(name, None, "", flag_values=registry)
    registry([name, f"--{name}={value}"])
    return made


def test_integers_may_be_negative_and_must_be_numbers():
    assert _value("layers", holder("layers", "0, 3,-1")) == [0, 3, -1]
    with pytest.raises(UserError, match="--layers=0,x: expected whole numbers"):
        _value("layers", holder("layers", "0,x"))


def test_files_of_texts(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\r\ntwo é\n".encode())
    assert _read(str(path), "text_file", several=False) == "one\n\ntwo é\n"
    assert _read(str(path), "text_file", several=True) == ["one", "two é"]
    path.write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="is not UTF-8 text, but another encoding, from byte 3"):
        _read(str(path), "text_file", several=False)
    path.write_bytes(b" \n")
    with pytest.raises(UserError, match="holds no text"):
        _read(str(path), "text_file", several=False)
    with pytest.raises(UserError, match="cannot be read"):
        _read(str(tmp_path / "b"), "text_file", several=False)
