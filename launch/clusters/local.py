"""Processes on this machine: one for all its devices, or several with virtual CPU devices, to try a run of many hosts.

Ctrl-C and SIGTERM go on to all processes as SIGTERM: they save at the same step and end; a second one kills them. They
end so too when this process is killed (launch/command/lifeline.py). The exit status is the worst: that of a failure
before 69, which the others have for it, before 75, before 0.
"""

import contextlib
import dataclasses
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import IO, Any, ClassVar

from launch.clusters.job import Job, option
from launch.command import lifeline
from launch.command.signals import EXIT_PREEMPTED, signal_handlers
from model.errors import UserError
from train.process.watch import EXIT_PEER_LOST

_SHOWN = ("first", "all")
_DEVICE_COUNT = "--xla_force_host_platform_device_count"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Local:
    """See the module."""

    NAME: ClassVar[str] = "local"
    processes: int = option(1, "The number of processes; more than one needs --devices_per_process.")
    devices_per_process: int | None = option(None, "Virtual CPU devices of each process; all of this machine's if not.")
    show: str = option("first", "Whose output is shown: first (process 0), or all, with the number of the process.")
    port: int = option(0, "The port of 127.0.0.1 at which the processes meet; a free one if 0.")

    @property
    def devices(self) -> int | None:
        """The number of devices; None for those of this machine."""
        return None if self.devices_per_process is None else self.processes * self.devices_per_process

    def text(self, job: Job) -> str:
        """See `Engine`: the commands, all but the last in the background."""
        commands = self._commands(job)
        assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in self._environment().items())
        lines = [f"{assignments} {shlex.join(command)}".strip() for command in commands]
        return " &\n".join(lines) + (" &\nwait\n" if len(lines) > 1 else "\n")

    def submit(self, job: Job) -> int:
        """See `Engine`. Returns when all processes have ended."""
        environment = lifeline.environment(os.environ | self._environment())
        shown = [index for index in range(self.processes) if self.show == "all" or index == 0]
        processes = [
            subprocess.Popen(
                command,
                env=environment,
                pass_fds=lifeline.descriptors(),
                stdin=subprocess.DEVNULL if self.processes > 1 else None,
                # One process writes to the terminal itself.
                stdout=None if self.processes == 1 else subprocess.PIPE if index in shown else subprocess.DEVNULL,
                stderr=None if self.processes == 1 else subprocess.STDOUT if index in shown else subprocess.PIPE,
                start_new_session=True,  # Ctrl-C of a terminal reaches only this process, which passes it on
            )
            for index, command in enumerate(self._commands(job))
        ]
        readers = [
            threading.Thread(target=_copy, args=(stream, f"[{index}] " if self.show == "all" else "", out), daemon=True)
            for index, process in enumerate(processes)
            for stream, out in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
            if stream is not None
        ]
        for reader in readers:
            reader.start()
        with _passing_signals_on(processes):
            statuses = [process.wait() for process in processes]
        for reader in readers:
            reader.join()
        return worst(statuses)

    def _commands(self, job: Job) -> list[list[str]]:
        if self.show not in _SHOWN:
            raise UserError(f"--show={self.show}: expected first or all")
        if self.processes == 1:
            return [job.command(sys.executable)]
        if self.devices_per_process is None:
            raise UserError(
                f"--processes={self.processes} needs --devices_per_process: several processes on one machine share its "
                "CPU; a single process takes all GPUs of a machine"
            )
        together = [f"--coordinator=127.0.0.1:{self.port or _free_port()}", f"--num_processes={self.processes}"]
        command = job.command(sys.executable)
        return [[*command, *together, f"--process_id={index}"] for index in range(self.processes)]

    def _environment(self) -> dict[str, str]:
        if self.devices_per_process is None:
            return {}
        kept = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_DEVICE_COUNT)]
        return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([*kept, f"{_DEVICE_COUNT}={self.devices_per_process}"])}


def worst(statuses: list[int]) -> int:
    """The status of a job with these statuses of processes, negative for a process that a signal ended."""
    consequences = (0, EXIT_PREEMPTED, EXIT_PEER_LOST)

    def badness(status: int) -> int:
        return consequences.index(status) if status in consequences else len(consequences)

    found = max(statuses, key=badness)
    return found if found >= 0 else 128 - found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _copy(stream: IO[bytes], prefix: str, out: Any) -> None:
    """Copies the lines of a process, each after a prefix."""
    for line in stream:
        out.write(prefix + line.decode(errors="backslashreplace"))
        out.flush()


@contextlib.contextmanager
def _passing_signals_on(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Inside the context the first signal becomes SIGTERM for all processes, and the second SIGKILL."""
    signals = [signal.SIGTERM, signal.SIGKILL]

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed = signals.pop(0) if len(signals) > 1 else signals[0]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(passed)

    with signal_handlers((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), pass_on):
        yield
