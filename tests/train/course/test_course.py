"""Work on a lesson: commands once, instruments, numbers, pages; going on after a failure; errors by name."""

import json
import shutil

import pytest

from model.errors import UserError
from tests.train.course.lessons import write_lesson
from train.course.course import Course


@pytest.fixture
def made(tiny_experiment, tiny_run, tmp_path):
    """A course, and a function that stands for its commands: it copies a finished run."""
    configs = tmp_path / "configs"
    configs.mkdir()
    for name in ("first", "second"):
        write_lesson(configs, tiny_experiment(), name)
    calls = []

    def start(words):
        calls.append(words)
        folder = next(word.removeprefix("--run=") for word in words if word.startswith("--run="))
        shutil.copytree(tiny_run, folder)
        return 0

    return Course(configs, ("first", "second"), tmp_path / "out"), start, calls


def work(course, name, start, say=str):
    """What the command does with a lesson."""
    status = course.run_commands(name, start, say)
    if status == 0:
        course.finish(name, say)
    return status


def test_a_lesson_is_worked_on_once(made):
    course, start, calls = made
    said = []
    assert not course.is_done("first")
    assert work(course, "first", start, said.append) == 0
    assert course.is_done("first")
    assert [words[0] for words in calls] == ["launch.train"]
    assert f"data.path={course.folder / 'texts' / 'english.txt'}" in calls[0]
    here = course.folder / "first"
    assert (here / "attention" / "result.json").is_file()
    record = json.loads((here / "lesson.json").read_text())
    assert len(record["numbers"]) == 2
    assert any("when the lesson was written: 3.000" in line for line in said)
    page = (here / "index.html").read_text(encoding="utf-8")
    for words in (
        "A &lt;title&gt;",
        "<code>code</code> &amp; more",
        "Look here.",
        "An answer.",
        "../second/index.html",
    ):
        assert words in page
    assert "Not done yet" in (course.folder / "second" / "index.html").read_text(encoding="utf-8")
    assert "1 of 2 lessons are done" in (course.folder / "index.html").read_text(encoding="utf-8")
    assert "Done: loss" in course.listing()
    assert work(course, "first", start, said.append) == 0
    assert len(calls) == 1


def test_a_lesson_goes_on_after_a_command_that_failed(made):
    course, start, calls = made
    assert work(course, "first", lambda words: 75) == 75
    assert not course.is_done("first")
    course.write_pages()
    assert "begun" in (course.folder / "index.html").read_text(encoding="utf-8")
    assert work(course, "first", start) == 0
    assert len(calls) == 1


def test_an_unknown_lesson_is_refused_with_the_nearest(made):
    with pytest.raises(UserError, match="did you mean 'second'"):
        work(made[0], "secnd", made[1])


def test_a_changed_lesson_is_no_longer_done(made, tiny_experiment):
    course, start, _ = made
    work(course, "first", start)
    configs = course.folder.parent / "configs"
    write_lesson(configs, tiny_experiment(training__num_steps=30), "first")
    changed = Course(configs, ("first", "second"), course.folder)
    assert not changed.is_done("first")
    with pytest.raises(UserError, match="another form of this lesson"):
        work(changed, "first", start)
