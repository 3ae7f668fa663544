"""A lesson of the course: a config file that also assigns `lesson`, with the words and the parts of its page.

    experiment = Experiment(...)      # or ablation = Ablation(...), or neither
    lesson = Lesson(
        title="Attention",
        question="What does a token read from the tokens before it?",
        words=("A paragraph.",),
        parts=(Run(settings=(ENGLISH,)), Look("attention", of="run", flags={"text": "the value of"}, note="...")),
        numbers=(Number("validation loss, nats a token", Final("run", "loss"), seen=2.8),),
        time="1 min 10 s on two busy cores",
    )

The parts are worked on in order. `Run`, `Sweep` and `Command` are commands of Cairn, each in a process of its own;
`Look` is an instrument of `launch.inspect`. In settings, `{texts}` stands for the folder of the texts, and `{here}` for
that of the lesson.
"""

import dataclasses
import pathlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from model.errors import UserError
from train.config_file import assignments_of
from train.course.numbers import Source
from train.inspection.table import refuse

ENGLISH, PYTHON = "data.path={texts}/english.txt", "data.path={texts}/python.txt"


@dataclasses.dataclass(frozen=True)
class Folders:
    """The folders of a lesson: its own, and that of the texts."""

    here: pathlib.Path
    texts: pathlib.Path

    def fill(self, word: str) -> str:
        """A word with its folders; other braces stay."""
        return word.replace("{here}", str(self.here)).replace("{texts}", str(self.texts))


NOWHERE = Folders(pathlib.Path(), pathlib.Path())  # for what does not depend on the place of a course


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A training: of the lesson's experiment, or of another config.

    Attributes:
      name: its folder in that of the lesson.
      settings: what --set changes.
      config: the path of another config; None for the lesson's own.
      note: a paragraph above its curves.
      samples: whether the page shows the last text that it drew.
    """

    name: str = "run"
    settings: tuple[str, ...] = ()
    config: str | None = None
    note: str = ""
    samples: bool = False

    def command(self, config: str, folders: Folders) -> list[str]:
        """The words of the command, after `python -m`."""
        words = ["launch.train", f"--config={self.config or config}", f"--run={folders.here / self.name}"]
        return [*words, *(word for setting in self.settings for word in ("--set", folders.fill(setting)))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """The lesson's ablation.

    Attributes:
      name: its folder in that of the lesson.
      settings: what --set changes in the base.
      joint: the most runs in one compiled program.
      note: a paragraph above its table.
    """

    name: str = "sweep"
    settings: tuple[str, ...] = ()
    joint: int = 1
    note: str = ""

    def command(self, config: str, folders: Folders) -> list[str]:
        """The words of the command, after `python -m`."""
        words = ["launch.sweep", f"--config={config}", f"--run={folders.here / self.name}"]
        words += [f"--joint={self.joint}"] if self.joint > 1 else []
        return [*words, *(word for setting in self.settings for word in ("--set", folders.fill(setting)))]


@dataclasses.dataclass(frozen=True)
class Command:
    """Any other command of Cairn, such as "launch.data instructions --path={here}/data"."""

    line: str

    def command(self, config: str, folders: Folders) -> list[str]:
        """The words of the command, after `python -m`."""
        return [folders.fill(word) for word in shlex.split(self.line)]


@dataclasses.dataclass(frozen=True)
class Look:
    """An instrument on a model of the lesson.

    Attributes:
      instrument: its name (`python -m launch.inspect` lists them).
      of: the run folder in that of the lesson.
      flags: the flags of the instrument, by name.
      note: a paragraph above it: what to look at.
      name: its folder; the instrument's name when not given.
    """

    instrument: str
    of: str = "run"
    flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""
    name: str = ""

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return self.name or self.instrument

    def given(self, folders: Folders) -> dict[str, Any]:
        """The flags, with folders filled in."""
        return {name: folders.fill(value) if isinstance(value, str) else value for name, value in self.flags.items()}

    def line(self, folders: Folders) -> str:
        """The command that shows the same, to paste."""
        words = ["python", "-m", "launch.inspect", self.instrument, f"--run={folders.here / self.of}"]
        for name, value in self.given(folders).items():
            if isinstance(value, bool):
                words += [f"--{name}"] if value else []
            elif isinstance(value, Sequence) and not isinstance(value, str):
                several = name in ("analogies", "positive", "negative")
                words += [f"--{name}={one}" for one in value] if several else [f"--{name}={','.join(map(str, value))}"]
            else:
                words.append(f"--{name}={value}")
        return shlex.join([*words, f"--output={folders.here / self.folder}"])


Part = Run | Sweep | Command | Look


@dataclasses.dataclass(frozen=True)
class Number:
    """A number of a lesson: its words, where it is read, the value that was seen when the lesson was written."""

    words: str
    source: Source
    seen: float
    digits: int = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lesson:
    """A lesson.

    Attributes:
      title: one to four words.
      question: the question that it answers, one line.
      words: paragraphs before the work.
      parts: see the module.
      numbers: the first one is that of the index.
      answer: paragraphs after the work: what was found when the lesson was written.
      time: the time that it took then, and on which machine.
    """

    title: str
    question: str
    words: tuple[str, ...]
    parts: tuple[Part, ...]
    numbers: tuple[Number, ...]
    answer: tuple[str, ...]
    time: str

    def commands(self, config: str, folders: Folders) -> Iterator[list[str]]:
        """The commands in order, without `python -m`."""
        for part in self.parts:
            if not isinstance(part, Look):
                yield part.command(config, folders)

    @property
    def looks(self) -> list[Look]:
        """The instruments in order."""
        return [part for part in self.parts if isinstance(part, Look)]


def from_file(path: str) -> tuple[Lesson, str]:
    """The lesson of a config file, and a text that changes when its work does: its parts, experiment or ablation.

    Words, such as those of a note, may change. Raises UserError for a file without a lesson, one without parts or
    numbers, and for flags that an instrument does not take.
    """
    assigned = assignments_of(path)
    lesson = assigned.get("lesson")
    if not isinstance(lesson, Lesson):
        raise UserError(f"{path} defines no `lesson = Lesson(...)`, got {type(lesson).__name__}")
    if not lesson.parts or not lesson.numbers:
        raise UserError(f"{path}: a lesson needs at least one of its parts, and one of its numbers")
    for look in lesson.looks:
        refuse(look.instrument, look.given(NOWHERE))
    work = [repr(assigned[name]) for name in ("experiment", "ablation") if name in assigned]
    work += [" ".join(words) for words in lesson.commands("", NOWHERE)] + [look.line(NOWHERE) for look in lesson.looks]
    return lesson, "\n".join([*work, *(repr(number.source) for number in lesson.numbers)])
