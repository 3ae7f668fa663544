import os
import socket

import pytest

from model.errors import UserError
from train.data.text.walk import Walk, matches


def write(root, **files):
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def names(walk):
    return sorted(name for _, name in walk.files)


def test_links_are_followed_and_nothing_is_there_twice(tmp_path):
    root = tmp_path / "root"
    write(tmp_path, root__a="1", root__z__b="2", out__c="3", out__d__e="4", other__f="5")
    os.link(root / "a", root / "hard")  # a file like any other
    for name, target in {
        "root/0 link": "a",  # the file itself takes precedence over its link
        "root/folder": "z",
        "root/loop": ".",
        "root/z/up": "../..",
        "root/out": "../out",
        "root/out again": "../out",
        "root/out d": "../out/d",
        "out/back": "../root",
        "out/other": "../other",
        "root/f": "../other/f",
        "root/f again": "../other/f",
    }.items():
        (tmp_path / name).symlink_to(target)
    walk = Walk(str(root))
    assert names(walk) == ["a", "f", "hard", "out/c", "out/d/e", "z/b"]
    assert (
        walk.left_out() == f"{root}: left out links to files that are there already: 0 link, f again, folder and 6 more"
    )


def test_a_link_that_leads_nowhere_is_an_error(tmp_path):
    write(tmp_path, a="1")
    (tmp_path / "b.txt").symlink_to("gone.txt")
    with pytest.raises(UserError, match=r"b\.txt is a link that leads nowhere: No such file.*fix it, or delete it"):
        Walk(str(tmp_path))
    assert names(Walk(str(tmp_path), ["a"])) == ["a"]  # not asked for
    (tmp_path / "b.txt").unlink()
    (tmp_path / "c.txt").symlink_to("c.txt")
    with pytest.raises(UserError, match=r"c\.txt is a link that leads to itself"):
        Walk(str(tmp_path))


def test_what_is_no_text_is_said(tmp_path):
    write(tmp_path, a="1", _hidden="")
    for name in (".git", ".DS_Store", "__pycache__"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        walk = Walk(str(tmp_path))
    assert names(walk) == ["a"]
    assert walk.left_out() == (
        f"{tmp_path}: left out hidden files and caches: .DS_Store, .git, __pycache__; pipes and devices: pipe, socket"
    )
    assert Walk(str(tmp_path), ["a"]).left_out() is None


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    write(tmp_path, a="1", sub__b="2")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"sub cannot be read: Permission denied; .*leave it out with a narrower path"):
        Walk(str(tmp_path))
    assert names(Walk(str(tmp_path), ["*"])) == ["a"]


def test_empty_files_hold_nothing_and_empty_archives_are_damaged(tmp_path):
    write(tmp_path, **{"a.txt": "", "b.jsonl": "", "c.gz": "", "d.parquet": "", "e.txt": "x"})
    assert names(Walk(str(tmp_path))) == ["c.gz", "d.parquet", "e.txt"]


def test_a_deep_folder(tmp_path):
    deep = tmp_path.joinpath(*["d"] * 300)
    deep.mkdir(parents=True)
    (deep / "a").write_text("x")
    assert names(Walk(str(tmp_path))) == ["d/" * 300 + "a"]


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("a", "*", True),
        ("a/b", "*", False),
        ("a/b", "**", True),
        ("a/b", "**/b", True),
        ("b", "**/b", True),
        ("a/b/c", "a/**/c", True),
        ("a/c", "a/**/c", True),
        ("a/.b/c", "a/**/c", False),
        (".a", "*", False),
        (".a", ".*", True),
        ("a\nb", "a?b", True),
        ("a", "**/**/a", True),
        ("a" * 50 + "/" + "a" * 50, "**/" * 20 + "b", False),
    ],
)
def test_patterns(path, pattern, expected):
    assert matches(path.split("/"), pattern.split("/")) is expected


def test_folders_that_a_pattern_matches_are_not_left_out_silently(tmp_path):
    write(tmp_path, books1__a="1", books2__b="2", books="3", mine__c="4")
    (tmp_path / "books3").symlink_to("mine")
    walk = Walk(str(tmp_path), ["books*"])
    assert names(walk) == ["books"]
    folders = "folders, entered only by a pattern that ends in /**: books1, books2, books3"
    assert walk.left_out() == f"{tmp_path}: left out {folders}"
    walk = Walk(str(tmp_path), ["books*", "**"])
    assert names(walk) == ["books", "books1/a", "books2/b", "books3/c"]
    assert walk.left_out() is None
