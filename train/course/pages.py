"""The pages of the course: one for each lesson, done or not, and the index that links them."""

import pathlib
import shlex
from collections.abc import Mapping, Sequence

from model.errors import UserError
from train.course.folder import Record
from train.course.lesson import Command, Folders, Lesson, Look, Run, Sweep
from train.files.files import replace_file
from train.inspection.page.page import render
from train.inspection.result import Charts, Link, Links, Part, Result, Table, Words
from train.lab.report.analysis import Analysis, analyse
from train.terminal.formatting import format_duration, format_fixed

TITLE = "Ten small experiments on the Transformer"


def write_index(folder: pathlib.Path, lessons: Mapping[str, Lesson], records: Mapping[str, Record]) -> pathlib.Path:
    """Writes the index of the lessons, of which some have records; returns its path."""
    done = [name for name in lessons if name in records and records[name].numbers]
    links = [
        Link(
            title=f"{number}. {lesson.title}",
            address=f"{name}/index.html",
            text=lesson.question,
            note=_state(name, lesson, records),
        )
        for number, (name, lesson) in enumerate(lessons.items(), 1)
    ]
    left = [name for name in lessons if name not in done]
    rows = [
        [
            f"{lessons[name].title}: {number.words}",
            format_fixed(value, number.digits),
            format_fixed(number.seen, number.digits),
        ]
        for name in done
        for number, value in zip(lessons[name].numbers, records[name].numbers, strict=True)
    ]
    words = Words(
        paragraphs=(
            "Each lesson asks one question, trains models of a few hundred thousand parameters in a minute or two, and "
            "shows what to look at. The configs are in `configs/course`: change one, and run it in another folder.",
        ),
        commands=[f"python -m launch.course {left[0]} --run={folder}", f"python -m launch.course --all --run={folder}"]
        if left
        else (),
    )
    parts: list[Part] = [words, Links(links=links)]
    if rows:
        parts.append(
            Table(
                title="All numbers",
                head=["number", "here", "when it was written"],
                rows=rows,
                caption="Other machines and versions of Python give other texts and other rounding: expect the same "
                "picture, not the same digits.",
            )
        )
    about = f"{len(done)} of {len(lessons)} lessons are done"
    return _write(Result(title=TITLE, about=about, numbers={}, arrays={}, parts=parts), folder)


def _state(name: str, lesson: Lesson, records: Mapping[str, Record]) -> str:
    record = records.get(name)
    if record is None or not record.numbers:
        return f"python -m launch.course {name}" if record is None else "begun"
    first = lesson.numbers[0]
    return f"{first.words}: {format_fixed(record.numbers[0], first.digits)}"


def write_lesson(
    name: str,
    lessons: Mapping[str, Lesson],
    config: str,
    folders: Folders,
    record: Record | None,
    results: Mapping[str, Result],
) -> pathlib.Path:
    """Writes the page of a lesson; returns its path.

    Args:
      name: the lesson.
      lessons: all lessons in order, for the links.
      config: the path of its config file.
      folders: its folders.
      record: what was done; None for a page that says how to do it.
      results: the results of its instruments, by folder.
    """
    lesson = lessons[name]
    number = list(lessons).index(name) + 1
    done = record is not None and bool(record.numbers)
    parts: list[Part] = [Words(paragraphs=lesson.words)]
    if done:
        assert record is not None
        parts.append(_numbers(lesson, record))
        for part in lesson.parts:
            parts += shown(part, folders, results)
        parts.append(Words(title="What was found", paragraphs=lesson.answer))
    else:
        parts.append(
            Words(
                title="Not done yet",
                paragraphs=(f"Takes {lesson.time}.",),
                commands=(f"python -m launch.course {name} --run={folders.here.parent}",),
            )
        )
    commands = [shlex.join(["python", "-m", *words]) for words in lesson.commands(config, folders)]
    commands += [look.line(folders) for look in lesson.looks]
    parts.append(
        Words(
            title="The same by hand",
            paragraphs=(f"The config is `{config}`; its page is made of what these commands write.",),
            commands=commands,
        )
    )
    parts.append(Links(links=_neighbours(name, lessons)))
    about = f"Lesson {number} of {len(lessons)}: {lesson.question}"
    if done and record is not None:
        about += f" Took {format_duration(record.seconds)} here."
    return _write(Result(title=lesson.title, about=about, numbers={}, arrays={}, parts=parts), folders.here)


def _numbers(lesson: Lesson, record: Record) -> Table:
    return Table(
        title="The numbers",
        head=["number", "here", "when it was written"],
        rows=[
            [number.words, format_fixed(value, number.digits), format_fixed(number.seen, number.digits)]
            for number, value in zip(lesson.numbers, record.numbers, strict=True)
        ],
        caption=f"When it was written: {lesson.time}.",
    )


def shown(part: Run | Sweep | Command | Look, folders: Folders, results: Mapping[str, Result]) -> list[Part]:
    """The parts of the page that show a part of the lesson."""
    if isinstance(part, Look):
        note = [part.note] if part.note else []
        result = results[part.folder]
        words = Words(title=result.title, paragraphs=[*note, *result.notes, result.about])
        return [words, *result.parts]
    if isinstance(part, Run):
        return _run(part, folders)
    return _sweep(part, folders) if isinstance(part, Sweep) else []


def _run(part: Run, folders: Folders) -> list[Part]:
    from train.report.charts import loss_chart
    from train.report.run import load

    run = load(folders.here / part.name)
    title = "The training" if part.name == "run" else f"The training: {part.name}"
    words = Words(title=title, paragraphs=[part.note] if part.note else [])
    chart = loss_chart(run)
    shown: list[Part] = [words, *([Charts(charts=[chart], wide=True)] if chart is not None else [])]
    if part.samples and run.samples:
        step, text = run.samples[-1]
        shown.append(
            Words(paragraphs=[f"Drawn from the model after step {step:,}:"], commands=text.strip().split("\n"))
        )
    shown.append(Links(links=[Link(title="The report of this run", address=f"{part.name}/report.html")]))
    return shown


def _sweep(part: Sweep, folders: Folders) -> list[Part]:
    from train.course.charts import final_chart
    from train.lab.report.charts import cost_chart
    from train.lab.report.tables import summary_table
    from train.lab.results import read_results

    analysis = analyse(read_results(folders.here / part.name))
    head, rows = summary_table(analysis)
    kept = [i for i, title in enumerate(head) if title not in _LEFT_OUT and not _is_without_verdicts(analysis, title)]
    table = Table(title="", head=[head[i] for i in kept], rows=[[row[i] for i in kept] for row in rows])
    charts = [final_chart(analysis), cost_chart(analysis, "tokens")]
    return [
        Words(title="The runs", paragraphs=[part.note] if part.note else []),
        table,
        Charts(charts=[chart for chart in charts if chart is not None], wide=True),
        Links(links=[Link(title="The report of this sweep", address=f"{part.name}/report.html")]),
    ]


_LEFT_OUT = ("effect", "active", "documents", "tokens/s", "FLOPs", "memory", "speedup")


def _is_without_verdicts(analysis: Analysis, title: str) -> bool:
    return title == "verdict" and analysis.results.alpha is None


def _neighbours(name: str, lessons: Mapping[str, Lesson]) -> Sequence[Link]:
    names = list(lessons)
    at = names.index(name)
    links = [Link(title="All lessons", address="../index.html")]
    if at:
        links.append(Link(title=f"\u2190 {lessons[names[at - 1]].title}", address=f"../{names[at - 1]}/index.html"))
    if at + 1 < len(names):
        after = lessons[names[at + 1]]
        links.append(Link(title=f"{after.title} \u2192", address=f"../{names[at + 1]}/index.html", text=after.question))
    return links


def _write(result: Result, folder: pathlib.Path) -> pathlib.Path:
    path = folder / "index.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, render(result).encode("utf-8", errors="backslashreplace"))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give another --run") from error
    return path
