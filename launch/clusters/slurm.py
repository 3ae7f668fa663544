"""SLURM: a batch script, which starts the run with srun and requeues the job when the run can continue.

SLURM sends SIGTERM to the tasks --signal_seconds before the time limit, and when it preempts the job: the run saves on
all nodes at the same step and ends with status 75. The script requeues the job after 75, 69 (a lost process), 70 (a
run that stood still) and a signal that killed a process, at most --max_restarts times; not a job that is cancelled. A
sweep is a job array: every task is requeued alone.

Not submitit: it sends a pickled Python call, which its own wrapper runs, and its requeueing asks the call for a new
one at SIGUSR2. Here the job is a command that any user can read, and the training handles signals itself.
"""

import dataclasses
import re
import shlex
from collections.abc import Sequence
from typing import ClassVar

from launch.clusters.job import RESTART_STATUSES, Job, call, lines_of, option, require_program
from launch.clusters.sweep import sweep
from model.errors import UserError
from train.files.paths import is_remote, local_path

_TIME = re.compile(r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2}", re.ASCII)
_COMMENT = "cairn run "  # in the comment of a job, before its run folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slurm:
    """See the module."""

    NAME: ClassVar[str] = "slurm"
    partition: str | None = option(None, "The partition; sinfo --summarize lists them.")
    time: str | None = option(None, "The time limit, such as 24:00:00 or 2-00:00:00; the partition's if not given.")
    nodes: int = option(1, "The number of nodes.")
    gpus_per_node: int = option(0, "GPUs of each node; 0 for nodes without.")
    tasks_per_node: int = option(1, "Processes on each node; a single one has all GPUs of its node.")
    cpus_per_task: int | None = option(None, "CPU cores of each process.")
    account: str | None = option(None, "The account that pays.")
    sbatch: tuple[str, ...] = option((), "A further option of sbatch, such as --sbatch=--exclusive; may be repeated.")
    signal_seconds: int = option(300, "Seconds before the time limit at which the run is told to save and end.")
    max_restarts: int = option(100, "How many times a job is requeued.")
    setup: str | None = option(None, "Shell commands before the run, such as 'source .venv/bin/activate'.")
    folder: str | None = option(None, "The folder of the code, as the nodes see it; the current one if not given.")
    seeds: str | None = option(None, "A job array with a run for each seed, such as 1,2,5-8; each in RUN/seedN.")
    variant: tuple[str, ...] = option((), "A job array: 'NAME: field=value ...' for the run RUN/NAME; may be repeated.")
    max_running: int | None = option(None, "How many tasks of a job array run at a time.")

    @property
    def devices(self) -> int | None:
        """The number of GPUs; None without any, where a process may see any number of CPU devices."""
        return self.nodes * self.gpus_per_node or None

    def jobs(self, job: Job) -> list[Job]:
        """The runs of the job array, one if there is none."""
        return sweep(job, self.seeds, self.variant)

    def text(self, job: Job) -> str:
        """See `Engine`: the script."""
        return self.script(job, self.jobs(job))

    def script(self, job: Job, jobs: Sequence[Job]) -> str:
        """The script of a job array, with one task for each of `jobs`; `job` gives it its name and its folder.

        Raises UserError as `text` does.
        """
        if self.partition is None:
            raise UserError("--partition is missing: in which partition of the cluster? sinfo --summarize lists them")
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise UserError(f"--time={self.time}: expected hours:minutes:seconds or days-hours, such as 24:00:00")
        if wrong := [text for text in self.sbatch if not text.startswith("--")]:
            raise UserError(f"--sbatch={wrong[0]}: expected an option with its value, such as --sbatch=--qos=high")
        if is_remote(job.run):
            raise UserError(f"--run={job.run}: the nodes need a folder that they share, such as --run=/shared/runs/one")
        lines = ["#!/usr/bin/env bash", *(f"#SBATCH {_directive(text)}" for text in self._directives(job, len(jobs)))]
        lines += [
            "set -u",
            "trap : TERM  # the signal is for the run; this script lives on, to requeue the job",
            *([self.setup] if self.setup else []),
        ]
        start = ["srun", "--kill-on-bad-exit=0", "--wait=0"]  # processes end together by themselves
        if len(jobs) == 1:
            lines.append(lines_of([*start, *jobs[0].command()]))
        else:
            lines.append('case "$SLURM_ARRAY_TASK_ID" in')
            for index, one in enumerate(jobs):
                lines.append(f"{index}) {lines_of([*start, *one.command()])} ;;")
            lines.append("esac")
        statuses = "|".join(map(str, RESTART_STATUSES))
        lines += [
            "status=$?",
            'case "$status" in',
            f"{statuses})",
            "    # It is no longer running when SLURM requeues it, and when it is cancelled.",
            '    state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)',
            f'    if [ "$state" = RUNNING ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {self.max_restarts} ]; then',
            '        echo "status $status: the job is requeued, and its run continues from the last checkpoint"',
            '        scontrol requeue "$SLURM_JOB_ID"',
            "    fi ;;",
            "esac",
            'exit "$status"',
        ]
        return "\n".join(lines) + "\n"

    def submit(self, job: Job) -> int:
        """See `Engine`. Refuses a run in whose folder a job of this user trains, or waits to."""
        return self.submit_array(job, self.jobs(job))

    def submit_array(self, job: Job, jobs: Sequence[Job]) -> int:
        """Submits `script`, and returns the exit status. Refuses it as `submit` does."""
        script = self.script(job, jobs)
        for program in ("sbatch", "squeue"):
            require_program(program, "run this on a login node of the cluster")
        listed = call(["squeue", "--me", "--noheader", "--format=%A %k"])
        if listed.returncode:
            raise UserError(f"squeue: {listed.stderr.strip()}; run this on a login node of the cluster")
        for line in listed.stdout.splitlines():
            number, _, comment = line.strip().partition(" ")
            if comment == self._comment(job):
                raise UserError(
                    f"job {number} trains in {job.run} already, or waits to; cancel it (scancel {number}), or give "
                    "another --run"
                )
        output = self._output(job, len(jobs))
        local_path(output, "--run").parent.mkdir(parents=True, exist_ok=True)
        done = call(["sbatch", "--parsable"], script)
        if done.returncode:
            raise UserError(f"{done.stderr.strip() or 'sbatch failed'}; the script is printed by --dry_run")
        number = done.stdout.strip().split(";")[0]
        print(f"job {number}; its output: {output.replace('%j', number).replace('%A', number)}")
        return 0

    def _comment(self, job: Job) -> str:
        return f"{_COMMENT}{self._absolute(job)}"

    def _absolute(self, job: Job) -> str:
        return str(local_path(self.folder or ".", "--folder").absolute() / job.run)

    def _output(self, job: Job, count: int) -> str:
        number = "%j" if count == 1 else "%A_%a"
        return f"{self._absolute(job).replace('%', '%%')}/logs/slurm-{number}.txt"

    def _directives(self, job: Job, count: int) -> list[str]:
        given = {
            "job-name": job.name,
            "comment": self._comment(job),
            "chdir": str(local_path(self.folder or ".", "--folder").absolute()),
            "output": self._output(job, count),
            "open-mode": "append",
            "partition": self.partition,
            "account": self.account,
            "time": self.time,
            "nodes": self.nodes,
            "ntasks-per-node": self.tasks_per_node,
            "cpus-per-task": self.cpus_per_task,
            "gpus-per-node": self.gpus_per_node or None,
            "signal": f"TERM@{self.signal_seconds}",
            "array": None if count == 1 else f"0-{count - 1}" + (f"%{self.max_running}" if self.max_running else ""),
        }
        named = [f"--{name}={value}" for name, value in given.items() if value is not None]
        return [*named, "--requeue", *self.sbatch]


def _directive(text: str) -> str:
    """An option in a line of #SBATCH, which knows quotes and backslashes."""
    if "\n" in text:
        raise UserError(f"{text!r} holds a line break, which no option of sbatch can have")
    if shlex.quote(text) == text or not re.search(r"[\s\"'\\#]", text):
        return text
    name, _, value = text.partition("=")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}="{escaped}"'
