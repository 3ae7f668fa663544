"""A sweep on this machine: its search of rates, its runs in a pool of processes, and its report."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from launch.clusters.job import Job
from launch.clusters.pool import Place, Pool, Start, wait_for_earlier
from launch.command.signals import EXIT_PREEMPTED
from train.terminal.formatting import escape_unprintable_lines

if TYPE_CHECKING:
    from train.lab.folder import Run
    from train.lab.sweep import Sweep

EXIT_FAILED = 1


def run_sweep(
    sweep: "Sweep",
    places: Sequence[Place],
    start: Start,
    only: str | None = None,
    more: tuple[str, ...] = (),
    joint: int = 1,
) -> int:
    """Searches, runs and reports; the folder of the sweep is locked and has its sweep.json.

    Args:
      sweep: resolved.
      places: the shares of this machine.
      start: starts a run in one of them.
      only: "search" ends after the search of rates, "report" runs nothing.
      more: further flags of launch.train.
      joint: the most runs in one program.

    Returns:
      0, or 1 when a run failed, or 75 when a signal ended the runs.
    """
    from train.lab.sweep import SweepStoppedError, failures

    statuses: dict[str, int] = {}
    try:
        if only != "report":
            execute = executor(sweep, places, start, more, joint)
            sweep.search_rates(execute)
            if only is None:
                statuses = execute(f"{sweep.ablation.metric} of the runs", sweep.runs())
    except SweepStoppedError as stopped:
        print(f"interrupted by {stopped}; the same command continues the sweep", file=sys.stderr)
        return EXIT_PREEMPTED
    failed = failures(sweep.runs(), statuses)
    for line in failed:
        print(escape_unprintable_lines(line), file=sys.stderr)
    if only != "search":
        report(sweep)
    return EXIT_FAILED if failed else 0


def report(sweep: "Sweep") -> None:
    """Writes the report of a sweep, and prints its table."""
    from train.lab.report import summary, write_sweep_report

    path, analysis = write_sweep_report(sweep.folder)
    print(summary(analysis))
    print(escape_unprintable_lines(f"report: {path}"))


def executor(
    sweep: "Sweep", places: Sequence[Place], start: Start, more: tuple[str, ...] = (), joint: int = 1
) -> "Callable[[str, Sequence[Run]], dict[str, int]]":
    """A function that runs those of some runs that are not done, shown in a table; see train/lab/sweep.py.

    Runs that branch from others of them are started when those have ended. Up to `joint` runs of equal shapes train in
    one program, in one process.
    """
    from train.lab.folder import is_done, share_texts, trunk_of
    from train.lab.live_table import LiveTable
    from train.lab.sweep import SweepStoppedError

    def execute(title: str, runs: "Sequence[Run]") -> dict[str, int]:
        labels = {str(run.folder): run.label for run in runs}
        wait_for_earlier([run.folder for run in runs])
        todo = [run for run in runs if not is_done(run)]
        if not todo:
            return {}
        share_texts(sweep.folder, todo)
        with LiveTable(title, runs, sweep.ablation.metric) as table:
            pool = Pool(places, start, lambda: table.update([labels[one] for job in pool.running for one in job.runs]))
            statuses = dict[str, int]()
            for later in (False, True):
                wave = [run for run in todo if (trunk_of(run, todo) is not None) == later]
                statuses |= pool.run(jobs_of(sweep, wave, more, joint, len(places)))
        if pool.stopped is not None:
            raise SweepStoppedError(pool.stopped)
        ended = [(run, statuses[str(run.folder)]) for run in todo if str(run.folder) in statuses]
        # Of the runs of a job that failed some may be done.
        return {run.label: 0 if status and is_done(run) else status for run, status in ended}

    return execute


def jobs_of(
    sweep: "Sweep", runs: "Sequence[Run]", more: tuple[str, ...] = (), joint: int = 1, places: int = 1
) -> list[Job]:
    """The jobs of runs: up to `joint` runs of equal shapes are one, and `places` jobs run at once."""
    if joint == 1:
        return [job_of(sweep, run, more) for run in runs]
    from train.joint.groups import split

    jobs = []
    for group in split(runs, lambda run: run.experiment, joint, places):
        job = job_of(sweep, group[0], more)
        if len(group) > 1:
            members = tuple((str(run.folder), run.settings) for run in group)
            job = dataclasses.replace(job, settings=sweep.common, members=members)
        jobs.append(job)
    return jobs


def job_of(sweep: "Sweep", run: "Run", more: tuple[str, ...] = ()) -> Job:
    """The command of a run."""
    title = f"{sweep.folder.name}-{run.label}"
    return Job(
        config=sweep.config, run=str(run.folder), settings=(*sweep.common, *run.settings), more=more, title=title
    )


def log_of_job(job: Job) -> pathlib.Path:
    """The file of the output of a job; that of a run is `train.lab.sweep.log_of`, where members write too."""
    run = pathlib.Path(job.run)
    return run.parent / "logs" / f"{run.name}-joint.txt" if job.members else run / "logs" / "sweep.txt"
