"""A training run to be started: its command, and what every engine can do with it.

An engine is a frozen dataclass whose fields are its flags (`option`). It has `devices`, their number in one run, where
that is known; `text`, exactly what a dry run prints; and `submit`, which does what the text says.
"""

import dataclasses
import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from launch.command.signals import EXIT_PREEMPTED
from model.errors import UserError
from train.process.watch import EXIT_PEER_LOST
from train.process.watchdog import EXIT_STALLED

if TYPE_CHECKING:
    from train.experiment import Experiment

# The statuses after which the same command continues the run: those of launch.train, and 128 + its number for a signal
# that ended a process: abort, bus error, kill (no memory), segment, terminate.
RESTART_STATUSES = (EXIT_PEER_LOST, EXIT_STALLED, EXIT_PREEMPTED, 134, 135, 137, 139, 143)
DRY_RUN = "or add --dry_run to print what would be submitted"


def option(default: Any, help: str) -> Any:
    """A field of an engine that is a flag of launch.submit; without a default (None) it has no value until given."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A training run: the command that all its processes run.

    Attributes:
      config: the experiment's file.
      run: the run folder, as the processes see it.
      settings: the changes of --set.
      mesh: the text of --mesh; None when not given.
      more: further flags of launch.train.
      python: the interpreter; None for the usual one of the engine.
      title: the text that `name` is made of; None for the last part of the run folder.
      members: the runs, with their own settings, of a job that trains several jointly (launch/clusters/joint.py); `run`
        is the first of them, and `settings` are those of all.
    """

    config: str
    run: str
    settings: tuple[str, ...] = ()
    mesh: str | None = None
    more: tuple[str, ...] = ()
    python: str | None = None
    title: str | None = None
    members: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def runs(self) -> tuple[str, ...]:
        """The run folders of the job."""
        return tuple(run for run, _ in self.members) or (self.run,)

    @property
    def name(self) -> str:
        """The title in the letters that all engines allow: a-z, 0-9 and -, 40 at most."""
        title = self.title or self.run.rstrip("/").rpartition("/")[2]
        letters = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40]
        return (letters if letters[:1].isalpha() else f"run-{letters}").strip("-")

    def command(self, python: str = "python") -> list[str]:
        """The words of the command; `python` is the engine's usual interpreter."""
        module, runs = ("launch.clusters.joint", []) if self.members else ("launch.train", [f"--run={self.run}"])
        words = [self.python or python, "-m", module, f"--config={self.config}", *runs]
        words += [] if self.mesh is None else [f"--mesh={self.mesh}"]
        words += [f"--set={setting}" for setting in self.settings]
        return [*words, *(f"--member={shlex.join([run, *own])}" for run, own in self.members), *self.more]


class Engine(Protocol):
    """An engine; see the module."""

    NAME: ClassVar[str]
    devices: int | None

    def text(self, job: Job) -> str:
        """Returns what a dry run prints. Raises UserError for a job that the engine cannot start."""
        ...

    def submit(self, job: Job) -> int:
        """Starts the job, and returns the exit status."""
        ...


def check_devices(experiment: "Experiment", devices: int | None) -> None:
    """Raises UserError when the mesh of an experiment cannot be laid out over the devices of a job."""
    if devices is None:
        return
    from train.parallel.mesh import format_mesh  # which imports jax

    sizes = vars(experiment.mesh)
    fixed = math.prod(size for size in sizes.values() if size is not None)
    if fixed != devices and (sizes["data"] is not None or devices % fixed):
        raise UserError(
            f"mesh {format_mesh(experiment.mesh)} does not multiply to the {devices} devices of this job; change "
            f"--mesh, such as --mesh=fsdp={devices}, or the number of devices"
        )


def lines_of(words: Sequence[str], indent: str = "    ") -> str:
    """A command for a shell, quoted; a long one has the flags at its end on lines of their own."""
    line = shlex.join(words)
    if len(line) <= 110:
        return line
    first = max((i + 1 for i, word in enumerate(words) if not word.startswith("--")), default=0)
    return f" \\\n{indent}".join([shlex.join(words[:first]), *map(shlex.quote, words[first:])])


def require_program(name: str, installation: str) -> None:
    """Raises UserError when a program is not on the PATH; `installation` says how to get it."""
    if shutil.which(name) is None:
        raise UserError(f"{name} is not installed here; {installation}, {DRY_RUN}")


def call(words: Sequence[str], given: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a program with a text as its standard input, and returns what it printed."""
    return subprocess.run(words, input=given, capture_output=True, text=True, check=False)
