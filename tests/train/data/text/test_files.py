import os
import pathlib

import pytest

from model.errors import UserError
from train.data.text.files import list_files


def write(folder, *names):
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"text")


def names(path):
    return [name for _, name in list_files(str(path)).files]


def test_a_name_that_exists_is_no_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "books [1]/a.txt", "books [1]/*.txt", "books 1/b.txt", "-x.txt", "[.txt")
    assert names("books [1]") == ["*.txt", "a.txt"]
    assert names("books [1]/a.txt") == ["a.txt"]
    assert names("books [1]/*.txt") == ["*.txt"]
    assert names("books [1]/[*a].txt") == ["*.txt", "a.txt"]
    assert names("books [12]/*.txt") == ["b.txt"]
    assert names("-x.txt") == ["-x.txt"]
    assert names("[.txt") == ["[.txt"]
    assert names("*.txt") == ["-x.txt", "[.txt"]
    write(tmp_path, "~", "~x/a.txt")
    assert names("./~") == ["~"]
    assert names("./~x") == names("./~x/*") == ["a.txt"]
    assert names(tmp_path / "books [1]" / "*.txt") == ["*.txt"]


def test_patterns_match_entry_by_entry_and_no_hidden_name(tmp_path):
    write(tmp_path, "a.md", "x/b.md", "x/y/c.md", "x/y/d.txt", ".h/e.md", "x/.f.md", "x/__pycache__/g.md")
    for pattern, expected in [
        ("*.md", ["a.md"]),
        ("**/*.md", ["a.md", "x/b.md", "x/y/c.md"]),
        ("x/**/*.md", ["b.md", "y/c.md"]),
        ("x/**", ["b.md", "y/c.md", "y/d.txt"]),
        ("x/*", ["b.md"]),
        ("*/*.md", ["b.md"]),
        ("*/y/?.[!m]*", ["d.txt"]),
        ("**/y/**/*", ["c.md", "d.txt"]),
        ("**/.*", [".f.md"]),
        (".h/*", ["e.md"]),
    ]:
        assert names(f"{tmp_path}/{pattern}") == expected, pattern
    with pytest.raises(UserError, match=r"the pattern '.*/\*\.rst' matches no file with text"):
        names(f"{tmp_path}/*.rst")
    with pytest.raises(UserError, match=r"matches no file in .*: there is no .*nowhere"):
        names(f"{tmp_path}/nowhere/*.md")


def test_a_slash_behind_a_pattern_asks_for_folders(tmp_path):
    for name in ("b1/t.txt", "b2/d/t.txt", "b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    assert [name for _, name in list_files(f"{tmp_path}/b*/").files] == ["b1/t.txt", "b2/d/t.txt"]
    assert [name for _, name in list_files(f"{tmp_path}/b1/").files] == ["t.txt"]


def test_names_of_any_bytes(tmp_path):
    write(tmp_path, b"caf\xe9.txt", b"a\nb.txt", "été.txt", "l\u2028.txt", b"n" * 250, " ", "ü [x]/\t.txt")
    assert names(tmp_path) == sorted(
        [" ", "a\\nb.txt", "caf\\xe9.txt", "l\\u2028.txt", "n" * 250, "été.txt", "ü [x]/\\t.txt"]
    )
    assert names(tmp_path / os.fsdecode(b"caf\xe9.txt")) == ["caf\\xe9.txt"]
    assert {pathlib.Path(path).read_bytes() for path, _ in list_files(str(tmp_path)).files} == {b"text"}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "the path of the text is empty"),
        ("a\0b", r"a\\x00b is not a path"),
        ("\ud800", r"\\ud800 is not a path"),
        ("n" * 300, "is too long for a path: 300 characters"),
        ("nothing.txt", "no such text: 'nothing.txt'"),
        ("file.txt/below", "no such text"),
        ("pipe", "pipe is a pipe or a device, not a file"),
        ("/dev/null", "/dev/null is a pipe or a device, not a file"),
        ("nowhere", "nowhere is a link that leads nowhere"),
        ("empty.txt", "empty.txt is empty"),
        ("folder", r"folder holds no file with text in it \(folder: left out hidden files and caches: .hidden\)"),
    ],
)
def test_paths_that_are_no_text(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "file.txt", "folder/.hidden")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "nowhere").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=message):
        list_files(path)


def test_the_standard_library_gives_way_to_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "stdlib/own.txt")
    assert names("stdlib") == ["own.txt"]
