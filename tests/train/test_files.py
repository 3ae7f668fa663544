import errno
import os

import pytest

from model.errors import UserError
from train.files import LineFile, replace_file


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
