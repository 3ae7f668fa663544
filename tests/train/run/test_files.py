import errno
import os

import numpy as np
import pytest

from model.errors import UserError
from train.run.files import LineFile, parse_json, read_json, replace_file, write_array, write_json


def test_append_that_fails_half_way_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "lines"
    file = LineFile(path)
    file.append(b"first\n")
    real_write = os.write

    def full_disk(descriptor, data):
        if len(data) > 3:
            return real_write(descriptor, data[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full_disk)
    with pytest.raises(UserError, match="No space left on device"):
        file.append(b"second\n")
    assert path.read_bytes() == b"first\n"
    monkeypatch.undo()
    file.append(b"third\n")
    assert path.read_bytes() == b"first\nthird\n"


def test_opening_drops_a_torn_line(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"whole\nto")
    LineFile(path).append(b"next\n")
    assert path.read_bytes() == b"whole\nnext\n"


def test_replacing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    replace_file(path, b"old")

    def broken(*paths):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(UserError, match="cannot write"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_json_and_arrays_are_written_whole_and_read_back(tmp_path):
    write_json(tmp_path / "a.json", {"one": [1, 2]})
    write_array(tmp_path / "b.npy", np.arange(3))
    assert read_json(tmp_path / "a.json") == {"one": [1, 2]}
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), [0, 1, 2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.npy"]


def test_an_object_that_needs_pickle_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="pickle"):
        write_array(tmp_path / "a.npy", np.array([{}]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "does not exist"), (b"{", "damaged: expected JSON"), (b"\xff", "damaged"), (b"[]", "got list")],
)
def test_a_damaged_json_file_is_named(tmp_path, content, expected):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.json .*{expected}"):
        read_json(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, "[" * 200 + "]" * 200, "9" * 5000, "", "\ufeff[]"])
def test_json_that_has_no_bottom_or_is_none_is_a_value_error(text):
    with pytest.raises(ValueError, match="nested|digits|Expecting|BOM"):
        parse_json(text)


def test_a_damaged_json_file_is_named_with_its_place(tmp_path):
    path = tmp_path / "x.json"
    for content, message in (
        ("[" * 100_000, "x.json is damaged: expected JSON, got values nested too deeply; get it again"),
        ("9" * 5000, "x.json is damaged: expected JSON, got "),
        ('{"step": "3"}', "x.json is damaged: step: expected a whole number, got '3'; get it again"),
    ):
        path.write_text(content)
        with pytest.raises(UserError) as caught:
            read_json(path, "get it again", {"step": int})
        assert message in str(caught.value)


def test_a_name_may_be_as_long_as_the_system_takes(tmp_path):
    path = tmp_path / ("é" * 127)  # 254 bytes of 255
    write_json(path, {"a": "b\udcff"})
    assert read_json(path) == {"a": "b\udcff"}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(UserError, match="cannot write .*: File name too long"):
        write_json(tmp_path / ("x" * 256), {})


def test_a_json_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    path = tmp_path / "a.json"
    path.symlink_to(path)  # a loop, which nobody can open, root neither
    with pytest.raises(UserError, match=r"^cannot read .*a\.json: Too many levels of symbolic links; nothing was chan"):
        read_json(path)
