"""A course in ten small experiments, from tokens to post-training, each a config, a page and a number.

    python -m launch.course
    python -m launch.course positions
    python -m launch.course positions --run=runs/course
    python -m launch.course --all --run=runs/course

Without a lesson it lists them. A lesson trains small models (minutes on two cores), looks into them, and writes
RUN/LESSON/index.html, a page that needs no network: what to look at, and the number that was reached. RUN/index.html
links the pages. Finished work is skipped, and a lesson that was interrupted goes on. The lessons are the files of
configs/course; every page ends with the commands that do the same by hand.

Exit status: 0, or that of the command that failed.
"""

import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from absl import flags

from launch.command import cli, lifeline
from model.errors import UserError

RUN = cli.define_path("run", "runs/course", "The folder of the course.")
ALL = flags.DEFINE_bool("all", False, "Works on all lessons, each in a process of its own.")


def main(argv: list[str]) -> int:
    """Reads the flags, and lists or works."""
    from configs import course as configs
    from train.course.course import Course
    from train.files.paths import local_path

    names = argv[1:]
    if len(names) > 1 or (names and ALL.value):
        raise UserError(f"expected one lesson, or --all, got {' '.join(names)}{' and --all' * ALL.value}")
    files, here = pathlib.Path(configs.__path__[0]), pathlib.Path.cwd()
    files = files.relative_to(here) if files.is_relative_to(here) else files
    course = Course(files, configs.LESSONS, local_path(RUN.value, "a course"))
    if not names and not ALL.value:
        print(f"python -m launch.course LESSON --run={RUN.value}\n\n{course.listing()}")
        return 0
    for name in names:
        course.check(name)
    left = [name for name in names or configs.LESSONS if not course.is_done(name)]
    for name in [name for name in names or configs.LESSONS if name not in left]:
        cli.print_escaped(f"{name}: done; page: {course.folder / name / 'index.html'}")
    if ALL.value:
        for name in left:
            if status := start(["launch.course", name, f"--run={RUN.value}"]):
                return status
    elif left:
        if status := course.run_commands(left[0], start, cli.print_escaped):
            return status
        cli.prepare_jax()  # not before: the commands want the devices
        course.finish(left[0], cli.print_escaped)
    cli.print_escaped(f"all pages: {course.write_pages()}")
    return 0


def start(words: Sequence[str]) -> int:
    """Runs a command of Cairn; a signal that ends this process lets the command save, and ends it first."""
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        start_new_session=True,
        env=lifeline.environment(os.environ),
        pass_fds=lifeline.descriptors(),
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        try:
            process.wait()
        except KeyboardInterrupt:
            process.kill()
        raise


if __name__ == "__main__":
    cli.run(main)
