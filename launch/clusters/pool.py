"""Training runs on this machine, several at once, each in a process of its own with its share of the devices.

With GPUs every place has one of them, or a part of its memory if there are more places than GPUs; a single place has
all. On a CPU the places share out the cores. Ctrl-C and SIGTERM go on to all runs as SIGTERM: they save and end, and no
other run is started; a second signal kills them. They save and end too when this process is killed
(launch/command/lifeline.py).
"""

import dataclasses
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import FrameType
from typing import Protocol

from launch.clusters.job import Job, call
from launch.command import lifeline
from launch.command.signals import signal_handlers

_POLL_SECONDS = 0.2
_WAIT_SECONDS = 120.0


class Process(Protocol):
    """The part of subprocess.Popen that is used here."""

    def poll(self) -> int | None:
        """Returns the exit status; None while it runs."""
        ...

    def send_signal(self, number: int, /) -> None:
        """Sends a signal."""
        ...


@dataclasses.dataclass(frozen=True)
class Place:
    """A share of this machine for one run: variables of its environment, and its cores, none for all."""

    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cores: frozenset[int] = frozenset()


Start = Callable[[Job, Place], Process]


def places(count: int | None, gpus: Sequence[str], cores: Collection[int]) -> list[Place]:
    """The shares of a machine for `count` runs at once; None for one run a GPU, or one run in all."""
    count = count or max(1, len(gpus))
    if count == 1:
        return [Place()]
    if gpus:
        shared = math.ceil(count / len(gpus))
        memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / shared:.2f}"} if shared > 1 else {}
        return [Place({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} | memory) for i in range(count)]
    ordered, size = sorted(cores), len(cores) // count
    if not size:
        return [Place()] * count
    return [Place(cores=frozenset(ordered[i * size : (i + 1) * size])) for i in range(count)]


def gpus_here(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that a process with this environment may use, as CUDA_VISIBLE_DEVICES names them."""
    if environment.get("JAX_PLATFORMS", "").split(",")[0] in ("cpu", "tpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name.strip() for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = call(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"])
    return listed.stdout.split() if listed.returncode == 0 else []


def cores_here() -> frozenset[int]:
    """The processor cores that this process may use; none where the system does not say."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


def starter(environment: Mapping[str, str], log: Callable[[Job], pathlib.Path]) -> Start:
    """The function that starts a run with launch.train; its output is appended to its log."""

    def start(job: Job, place: Place) -> Process:
        path = log(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as output:
            process = subprocess.Popen(
                job.command(sys.executable),
                env=lifeline.environment({**environment, **place.environment}),
                pass_fds=lifeline.descriptors(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C of a terminal reaches only this process, which passes it on
            )
        if place.cores:
            os.sched_setaffinity(process.pid, place.cores)  # before its threads, which have the same, are there
        return process

    return start


def wait_for_earlier(runs: Sequence[pathlib.Path], seconds: float = _WAIT_SECONDS) -> None:
    """Waits until no process trains these runs, such as one that saves and ends because its own command was killed.

    After so many seconds it returns all the same: a run that is in use then ends with a message that says so.
    """
    from train.run.folder import owner_of

    deadline, named = time.monotonic() + seconds, set[str]()
    for run in runs:
        while (owner := owner_of(run)) is not None and time.monotonic() < deadline:
            if owner not in named:
                print(f"waiting for process {owner}, which has {run.name} and may be saving it", file=sys.stderr)
                named.add(owner)
            time.sleep(_POLL_SECONDS)


class Pool:
    """Runs jobs, so many at once.

    Attributes:
      running: the jobs that run now.
      stopped: the name of the signal that ended them; None without one.
    """

    def __init__(self, places: Sequence[Place], start: Start, watch: Callable[[], None] = lambda: None) -> None:
        """Args: the places, the function that starts a job in one, and one to call while jobs run."""
        self._free, self._start, self._watch = list(places), start, watch
        self._processes: dict[str, tuple[Job, Process, Place]] = {}
        self._signals = [signal.SIGTERM, signal.SIGKILL]
        self.stopped: str | None = None

    @property
    def running(self) -> list[Job]:
        """The jobs that run now."""
        return [job for job, _, _ in self._processes.values()]

    def run(self, jobs: Sequence[Job]) -> dict[str, int]:
        """Returns the exit status of each run by its folder, when all jobs that were started have ended.

        The runs of a job have its status; those of jobs that were not started after a signal have none. 128 and its
        number is the status of a process that a signal ended.
        """
        waiting, statuses = list(jobs), dict[str, int]()
        with signal_handlers((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), self._on_signal):
            while self._processes or (waiting and self.stopped is None):
                while waiting and self._free and self.stopped is None:
                    job, place = waiting.pop(0), self._free.pop(0)
                    self._processes[job.run] = (job, self._start(job, place), place)
                for run, (job, process, place) in list(self._processes.items()):
                    if (status := process.poll()) is not None:
                        statuses |= dict.fromkeys(job.runs, status if status >= 0 else 128 - status)
                        del self._processes[run]
                        self._free.append(place)
                self._watch()
                if self._processes:
                    time.sleep(_POLL_SECONDS)
        return statuses

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopped = signal.Signals(number).name
        passed = self._signals.pop(0) if len(self._signals) > 1 else self._signals[0]
        for _, process, _ in list(self._processes.values()):
            if process.poll() is None:
                process.send_signal(passed)
