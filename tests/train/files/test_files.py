import ast
import errno
import os
import pathlib
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from model.errors import UserError
from train.files.files import (
    LineFile,
    LockedError,
    atomic_folder,
    lock,
    move_replacing,
    parse_json,
    read_json,
    rename_into_place,
    replace_file,
    write_array,
    write_json,
)

ROOT = pathlib.Path(__file__).resolve().parents[3]


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


# ------------------------------------------------------------------------------------------- folders, locks, one place


def test_a_folder_has_its_name_when_it_is_filled_and_not_before(tmp_path):
    path = tmp_path / "below" / "folder"
    with atomic_folder(path) as part:
        (part / "file").write_text("x")
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["folder"]
    assert (path / "file").read_text() == "x"


def test_a_folder_whose_filling_ends_half_way_is_none(tmp_path):
    def interrupted():
        with atomic_folder(tmp_path / "folder") as part:
            (part / "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_came_first_stays(tmp_path):
    def fill():
        with atomic_folder(tmp_path / "folder", ".1") as part:
            (tmp_path / "folder").mkdir()
            (tmp_path / "folder" / "theirs").touch()
            (part / "ours").touch()

    with pytest.raises(OSError, match="not empty"):
        fill()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["theirs"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_what_takes_a_place_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        plain = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, plain=plain: order.append(name) or plain(*a))
    (tmp_path / "part").write_text("x")
    rename_into_place(tmp_path / "part", tmp_path / "whole")
    assert order == ["fsync", "replace", "fsync"]
    assert [p.name for p in tmp_path.iterdir()] == ["whole"]


def test_what_is_set_aside_goes_over_what_was_set_aside_before(tmp_path):
    for content in ("old", "new"):
        (tmp_path / "file").write_text(content)
        move_replacing(tmp_path / "file", tmp_path / "file.old")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / content).touch()
        move_replacing(tmp_path / "folder", tmp_path / "damaged" / "folder")
    assert (tmp_path / "file.old").read_text() == "new"
    assert [p.name for p in (tmp_path / "damaged" / "folder").iterdir()] == ["new"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged", "file.old"]


HOLDS = """
import pathlib, sys
from train.files.files import lock
with lock(pathlib.Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_held_by_one_process_which_it_names(tmp_path):
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLDS, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(LockedError) as held, lock(path, wait=False):
            pass
        assert held.value.owner == str(other.pid)
        got = threading.Event()

        def wait():
            with lock(path, wait=True):
                got.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not got.wait(0.2)
        other.stdin.close()
        waiting.join(30)
        assert got.is_set()
    with lock(path, wait=False):
        assert path.read_text() == f"{socket.gethostname()} {os.getpid()}"


def test_an_error_inside_a_lock_is_none_of_the_lock(tmp_path):
    with pytest.raises(BlockingIOError, match="mine"), lock(tmp_path / ".lock", wait=False):
        raise BlockingIOError("mine")
    with pytest.raises(FileNotFoundError), lock(tmp_path / "nowhere" / ".lock", wait=True):
        pass


def test_no_other_file_renames_syncs_or_locks():
    """Checks every function of the standard library that does so, in library code and in commands."""
    found = []
    for folder in ("train", "launch", "model", "configs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path == ROOT / "train" / "files" / "files.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                imported = isinstance(node, ast.Import | ast.ImportFrom) and any(
                    name in ("fcntl", "msvcrt") for name in [*(a.name for a in node.names), getattr(node, "module", "")]
                )
                of_os = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
                moves = of_os and node.attr in ("replace", "rename", "renames", "link", "fsync", "fdatasync", "lockf")
                # A string takes two arguments to replace, a path one.
                called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
                path_moves = called and node.func.attr in ("replace", "rename") and len(node.args) == 1
                of_class = called and isinstance(node.func.value, ast.Name) and node.func.value.id == "dataclasses"
                if imported or moves or (path_moves and not of_class):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []
