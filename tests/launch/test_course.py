"""The command launch.course: its listing, its errors, the lessons of configs/course."""

import importlib.util
import pathlib

import pytest

from configs import course as configs
from tests.tiers import SWEEP
from train.course.lesson import Folders, Look, Run, Sweep, from_file

FOLDER = pathlib.Path(configs.__file__).parent


def test_without_a_lesson_it_lists_them(command, tmp_path):
    status, printed = command("launch.course", f"--run={tmp_path / 'out'}")
    assert status == 0
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("  ")] == list(configs.LESSONS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["atention"], "no lesson is called 'atention'; did you mean 'attention'?"),
        (["attention", "heads"], "expected one lesson, or --all, got attention heads"),
        (["attention", "--all"], "expected one lesson, or --all, got attention and --all"),
    ],
)
def test_mistakes_are_one_message(command, tmp_path, arguments, words):
    status, printed = command("launch.course", *arguments, f"--run={tmp_path / 'out'}")
    assert (status, "Traceback" in printed) == (2, False)
    assert words in printed


def test_all_files_of_the_course_are_lessons():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*configs.LESSONS, "__init__", "base"}


@pytest.mark.parametrize("name", configs.LESSONS)
def test_a_lesson_says_what_it_does_and_what_was_found(name):
    lesson, _ = from_file(str(FOLDER / f"{name}.py"))
    folders = Folders(pathlib.Path("out"), pathlib.Path("texts"))
    assert lesson.answer
    assert lesson.time
    assert any(number.seen for number in lesson.numbers)
    assert "TODO" not in repr(lesson)
    made = {part.name for part in lesson.parts if isinstance(part, Run | Sweep)}
    for look in lesson.looks:
        assert look.of.split("/")[0] in made
    for words in lesson.commands("", folders):
        assert importlib.util.find_spec(words[0]) is not None
        assert not any("{" in word for word in words)
    assert all(part.note for part in lesson.parts if isinstance(part, Run | Sweep | Look))


@SWEEP
def test_a_lesson_is_worked_on_and_then_done(command, tmp_path):
    status, printed = command("launch.course", "feed_forward", f"--run={tmp_path / 'out'}")
    assert status == 0, printed
    assert (tmp_path / "out" / "feed_forward" / "neurons" / "index.html").is_file()
    status, printed = command("launch.course", "feed_forward", f"--run={tmp_path / 'out'}")
    assert (status, "feed_forward: done; page:" in printed) == (0, True)
