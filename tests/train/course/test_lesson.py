"""Lessons: what a config file assigns, the commands of its parts, what is refused."""

import pathlib
import shlex

import pytest

from model.errors import UserError
from tests.train.course.lessons import LOOK, RUN, write_lesson
from train.course.lesson import Command, Folders, Look, Run, Sweep, from_file

FOLDERS = Folders(pathlib.Path("out/first"), pathlib.Path("out/texts"))


def test_parts_are_commands():
    run = Run(settings=("data.path={texts}/english.txt", "model.mixer=GroupedQuery(num_heads=2)"))
    assert run.command("c.py", FOLDERS) == [
        "launch.train",
        "--config=c.py",
        "--run=out/first/run",
        "--set",
        "data.path=out/texts/english.txt",
        "--set",
        "model.mixer=GroupedQuery(num_heads=2)",
    ]
    assert Run(name="a", config="other.py").command("c.py", FOLDERS)[1:] == ["--config=other.py", "--run=out/first/a"]
    assert Sweep(joint=2).command("c.py", FOLDERS) == [
        "launch.sweep",
        "--config=c.py",
        "--run=out/first/sweep",
        "--joint=2",
    ]
    command = Command("launch.data instructions --path={here}/data --grammar='Instructions(tasks=(\"copy\",))'")
    assert command.command("c.py", FOLDERS)[1:] == [
        "instructions",
        "--path=out/first/data",
        '--grammar=Instructions(tasks=("copy",))',
    ]


def test_a_look_is_a_line_to_paste():
    flags = {"text": "the value", "layers": (0, -1), "against": "{here}/b", "tuned": True}
    words = shlex.split(Look("lens", of="a", flags=flags).line(FOLDERS))
    assert words == [
        *("python", "-m", "launch.inspect", "lens", "--run=out/first/a"),
        *("--text=the value", "--layers=0,-1", "--against=out/first/b", "--tuned", "--output=out/first/lens"),
    ]
    line = Look("analogies", flags={"analogies": ("a b c d", "e f g h")}, name="plurals").line(FOLDERS)
    assert shlex.split(line)[5:] == ["--analogies=a b c d", "--analogies=e f g h", "--output=out/first/plurals"]


def test_a_config_file_has_a_lesson(tiny_experiment, tmp_path):
    lesson, work = from_file(write_lesson(tmp_path, tiny_experiment()))
    assert [type(part) for part in lesson.parts] == [Run, Look]
    assert [look.folder for look in lesson.looks] == ["attention"]
    assert [words[0] for words in lesson.commands("c.py", FOLDERS)] == ["launch.train"]
    path = write_lesson(tmp_path, tiny_experiment(), parts=(RUN + LOOK).replace("Look here", "Look there"))
    assert from_file(path)[1] == work  # words do not change the work
    path = write_lesson(tmp_path, tiny_experiment(), parts=(RUN + LOOK).replace("the cat", "the dog"))
    assert from_file(path)[1] != work
    assert from_file(write_lesson(tmp_path, tiny_experiment(training__num_steps=21)))[1] != work


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"more": "lesson = 3\n"}, "defines no `lesson = Lesson"),
        ({"more": "import dataclasses\nlesson = dataclasses.replace(lesson, parts=())\n"}, "at least one of its parts"),
        ({"parts": LOOK.replace("attention", "atention")}, "did you mean 'attention'"),
        ({"parts": LOOK.replace('"layers"', '"words"')}, "--words has no effect with attention"),
    ],
)
def test_a_file_without_a_lesson_is_refused(tiny_experiment, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        from_file(write_lesson(tmp_path, tiny_experiment(), **changes))
