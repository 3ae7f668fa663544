"""The pages of the course: links that lead somewhere, of a lesson that is not done, of a sweep."""

import re

import pytest

from model.errors import UserError
from tests.train.course.lessons import write_lesson
from train.course import pages
from train.course.folder import Record
from train.course.lesson import Folders, from_file


@pytest.fixture
def lessons(tiny_experiment, tmp_path):
    names = ("first", "second", "third")
    return {name: from_file(write_lesson(tmp_path, tiny_experiment(), name))[0] for name in names}


def links(path):
    return re.findall(r'<a [^>]*href="([^"]*)"', path.read_text(encoding="utf-8"))


def test_all_links_lead_to_a_page(lessons, tmp_path):
    out = tmp_path / "out"
    for name in lessons:
        folders = Folders(out / name, out / "texts")
        pages.write_lesson(name, lessons, f"{name}.py", folders, None, {})
    index = pages.write_index(out, lessons, {"second": Record("x", {"a": 60.0}, [2.0, 1.0])})
    assert links(index) == [f"{name}/index.html" for name in lessons]
    second = out / "second" / "index.html"
    assert links(second) == ["../index.html", "../first/index.html", "../third/index.html"]
    for page in (index, second):
        for link in links(page):
            assert (page.parent / link).is_file()
        assert not re.search(r"(src|href)=\"https?:", page.read_text(encoding="utf-8"))
    text = index.read_text(encoding="utf-8")
    assert "loss: 2.000" in text
    (head,) = re.findall(r"<thead><tr>(.*?)</tr></thead>", text)
    row = re.search(r"<tbody><tr>(.*?)</tr>", text)[1]
    assert (head.count("<th"), row.count("<td")) == (3, 3)
    assert row.startswith("<td>A &lt;title&gt;: loss</td>")
    text = second.read_text(encoding="utf-8")
    assert "Not done yet" in text
    assert "python -m launch.inspect attention" in text


def test_a_folder_that_cannot_be_written_is_named(lessons, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="give another --run"):
        pages.write_index(tmp_path / "out", lessons, {})
