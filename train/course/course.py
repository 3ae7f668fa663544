"""The course: its lessons in order, and the work on one of them."""

import pathlib
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from model.errors import UserError
from model.options.words import nearest
from train.course import folder as folders_of
from train.course.folder import Record
from train.course.lesson import NOWHERE, Folders, Lesson, Look, from_file
from train.course.pages import write_index, write_lesson
from train.course.texts import write_texts
from train.inspection.result import Result
from train.inspection.table import find, function_of
from train.terminal.formatting import format_duration, format_fixed

TEXTS = "texts"  # in the folder of the course

Start = Callable[[Sequence[str]], int]  # runs `python -m` with these words, and returns its exit status


class Course:
    """The lessons of a folder of configs, and the folder that they are worked on in.

    Attributes:
      lessons: the lessons by name, in order.
      folder: of the course.
    """

    def __init__(self, configs: pathlib.Path, names: Iterable[str], folder: pathlib.Path) -> None:
        """Args: the folder of the config files, their names in order, the folder of the course. Raises UserError."""
        self.folder, self._configs = folder, {name: str(configs / f"{name}.py") for name in names}
        read = {name: from_file(path) for name, path in self._configs.items()}
        self.lessons = {name: lesson for name, (lesson, _) in read.items()}
        self._digests = {name: folders_of.digest(text) for name, (_, text) in read.items()}

    def check(self, name: str) -> None:
        """Raises UserError, with the nearest name, for a lesson that is not there."""
        if name not in self.lessons:
            raise UserError(f"no lesson is called {name[:80]!r}; {nearest(name, self.lessons)}")

    def folders(self, name: str) -> Folders:
        """The folders of a lesson."""
        return Folders(self.folder / name, self.folder / TEXTS)

    def record(self, name: str) -> Record | None:
        """What was done of a lesson as it is now; None for nothing. Raises UserError for a damaged file."""
        record = folders_of.read(self.folder / name)
        return record if record is not None and record.lesson == self._digests[name] else None

    def is_done(self, name: str) -> bool:
        """Whether a lesson is done, with its page."""
        record = self.record(name)
        return record is not None and bool(record.numbers) and (self.folder / name / "index.html").is_file()

    def listing(self) -> str:
        """A line for each lesson: its name, whether it is done here, its question."""
        width = max(map(len, self.lessons))
        lines = []
        for number, (name, lesson) in enumerate(self.lessons.items(), 1):
            record = self.record(name)
            state = self._first_number(lesson, record) if record is not None and record.numbers else ""
            lines.append(f"  {number:>2}  {name:<{width}}  {lesson.question}{state}")
        return "\n".join(lines)

    def _first_number(self, lesson: Lesson, record: Record) -> str:
        first = lesson.numbers[0]
        return f" Done: {first.words} {format_fixed(record.numbers[0], first.digits)}."

    def write_pages(self) -> pathlib.Path:
        """Writes the index, and the pages of lessons that are not done; returns the path of the index."""
        records = {name: record for name in self.lessons if (record := self.record(name)) is not None}
        for name in self.lessons:
            if name not in records or not records[name].numbers:
                write_lesson(name, self.lessons, self._configs[name], self.folders(name), None, {})
        return write_index(self.folder, self.lessons, records)

    def run_commands(self, name: str, start: Start, say: Callable[[str], None] = print) -> int:
        """Runs the commands of a lesson that are not done yet. Call `finish` then.

        Args:
          name: the lesson.
          start: runs a command.
          say: is told of each.

        Returns:
          0, or the exit status of the command that failed; the same call goes on from there.

        Raises:
          UserError: for a lesson that is not there, and a folder of an earlier form of it.
        """
        self.check(name)
        lesson, folders = self.lessons[name], self.folders(name)
        write_texts(folders.texts)
        record = folders_of.begin(folders.here, self._digests[name])
        record.save(folders.here)
        # The keys in the record do not depend on the place of the course.
        keys = (" ".join(words) for words in lesson.commands("", NOWHERE))
        for key, words in zip(keys, lesson.commands(self._configs[name], folders), strict=True):
            if key in record.done:
                continue
            say(shlex.join(["python", "-m", *words]))
            began = time.monotonic()
            if status := start(words):
                return status
            record.done[key] = time.monotonic() - began
            record.save(folders.here)
        return 0

    def finish(self, name: str, say: Callable[[str], None] = print) -> pathlib.Path:
        """Looks into the models of a lesson whose commands are done, reads its numbers, and writes its pages.

        Returns the path of its page. Raises UserError as instruments do, and where a number is missing.
        """
        lesson, folders = self.lessons[name], self.folders(name)
        record = folders_of.begin(folders.here, self._digests[name])
        results = {}
        for look in lesson.looks:
            say(look.line(folders))
            began = time.monotonic()
            results[look.folder] = result = looked(look, folders)
            result.write(folders.here / look.folder)
            record.done[look.line(NOWHERE)] = time.monotonic() - began
        record.numbers = [number.source.read(folders.here) for number in lesson.numbers]
        page = write_lesson(name, self.lessons, self._configs[name], folders, record, results)
        record.save(folders.here)
        self.write_pages()
        for number, value in zip(lesson.numbers, record.numbers, strict=True):
            here, seen = format_fixed(value, number.digits), format_fixed(number.seen, number.digits)
            say(f"  {number.words}: {here} (when the lesson was written: {seen})")
        say(f"{lesson.title}: done in {format_duration(record.seconds)}; page: {page}")
        return page


def looked(look: Look, folders: Folders) -> Result:
    """The result of an instrument on a model of a lesson."""
    instrument = find(look.instrument)
    subject: Any = None
    if instrument.needs_run:
        if instrument.reads_weights:
            from train.conversion.loading import load_model

            subject = load_model(folders.here / look.of)
        else:
            from train.inspection.vocabulary.tokens import open_tokenizer

            subject = open_tokenizer(folders.here / look.of)
    folder = {"folder": folders.here / look.folder} if instrument.takes_folder else {}
    return function_of(instrument)(subject, **folder, **look.given(folders))
