"""Profiles some steps: a trace for XProf, the memory of the devices, and a table of the operations with most time.

RUN/profile/ holds the trace (`xprof RUN/profile` opens it, and so does TensorBoard), memory.prof (`pprof` opens it)
and operations.json. Every process writes its own trace into the same folder.
"""

from __future__ import annotations

import collections
import dataclasses
import glob
import pathlib
import re
import socket
from collections.abc import Callable
from typing import Any

import jax

from model.errors import UserError
from train.files.files import write_json
from train.hooks.interface import Hook, Session, StepInfo
from train.process import hosts

FOLDER, OPERATIONS = "profile", "operations.json"
_LISTED = 20  # operations of the table
_CONTAINERS = {"while", "call", "conditional"}
# The name of an operation of a program among the other events of a thread.
_HLO = re.compile(r"[a-z][a-z0-9_-]*(\.\d+)*")


@dataclasses.dataclass(frozen=True)
class ProfiledSteps:
    """The first and the last step of a profile."""

    first: int
    last: int


def parse_steps(text: str) -> ProfiledSteps:
    """The steps of a flag such as 10:13, both included. Raises UserError for any other text."""
    found = re.fullmatch(r"\s*([0-9]{1,12})\s*(?::\s*([0-9]{1,12})\s*)?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last:
        raise UserError(f"--profile_steps={text}: expected the first and the last step to profile, such as 10:13")
    return ProfiledSteps(first, last)


class ProfileHook(Hook):
    """Starts a trace before the first step of the range, and writes it after the last one."""

    def __init__(self, session: Session, steps: ProfiledSteps) -> None:
        """Raises UserError if the run ends before the range does."""
        num_steps = session.experiment.training.num_steps
        if steps.last > num_steps:
            raise UserError(
                f"--profile_steps={steps.first}:{steps.last}: the run has {num_steps:,} steps; name steps up to that"
            )
        self._steps, self._say = steps, session.say
        self._folder = session.folder / FOLDER
        self._running = self._over = False

    def begin(self, step: int) -> None:
        """Refuses a range that begins before the second step of a run, since its first step compiles.

        A run that continues after the range has begun profiles nothing: its engine gives the same command again.
        """
        self._over = self._steps.first < step + 2
        if self._over and step:
            self._say(f"not profiled: steps {self._steps.first} to {self._steps.last} begin before step {step + 2}")
        elif self._over:
            length = self._steps.last - self._steps.first
            raise UserError(
                f"--profile_steps={self._steps.first}:{self._steps.last}: this session begins with step {step + 1}, "
                f"which compiles; profile steps after it, such as --profile_steps={step + 2}:{step + 2 + length}"
            )

    def due(self, info: StepInfo) -> bool:
        """Whether a step comes just before the range, or is its last one."""
        return not self._over and info.step in (self._steps.first - 1, self._steps.last)

    def __call__(self, info: StepInfo) -> None:
        """Starts the trace, or ends it and says which operations took most of the time."""
        if info.step < self._steps.last:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif self._running:
            self.close()
            self._write()

    def close(self) -> None:
        """Ends a trace that is under way, so that an interrupted run keeps it."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()

    def _write(self) -> None:
        if not hosts.is_writer():
            return
        jax.profiler.save_device_memory_profile(str(self._folder / "memory.prof"))
        own = glob.escape(socket.gethostname())
        traces = sorted(self._folder.glob(f"**/{own}.xplane.pb"), key=lambda path: path.stat().st_mtime)
        operations = top_operations(traces[-1]) if traces else []
        content = {"first": self._steps.first, "last": self._steps.last, "operations": operations}
        write_json(self._folder / OPERATIONS, content)
        listed = ", ".join(f"{row['name']} {row['share']:.0%}" for row in operations[:3]) or "no operation was recorded"
        self._say(f"profile of steps {self._steps.first} to {self._steps.last}: {listed}; all of it: {self._folder}")


def profile_steps(steps: ProfiledSteps) -> Callable[[Session], ProfileHook]:
    """The maker of a hook that profiles these steps."""
    return lambda session: ProfileHook(session, steps)


def top_operations(trace: pathlib.Path) -> list[dict[str, Any]]:
    """The operations of a trace with most time on the devices: name, seconds, share of all operations, count.

    Operations of one kind are counted together: "fusion.12" is a "fusion". Loops and calls are left out, since their
    operations have events of their own. On a CPU, where operations run in the threads of the host, the times of all
    threads are added.
    """
    seconds: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[str] = collections.Counter()
    for events in _operation_lines(jax.profiler.ProfileData.from_file(str(trace))):
        for event in events:
            name = re.sub(r"[.\d]+$", "", event.name.split(" = ")[0].lstrip("%"))
            if name and name not in _CONTAINERS and event.duration_ns > 0:
                seconds[name] += event.duration_ns * 1e-9
                counts[name] += 1
    total = sum(seconds.values())
    return [
        {"name": name, "seconds": spent, "share": spent / total, "count": counts[name]}
        for name, spent in seconds.most_common(_LISTED)
    ]


def _operation_lines(trace: Any) -> list[Any]:
    """The events of the lines of a trace that hold operations, of one device."""
    planes = {plane.name: plane for plane in trace.planes}
    device = next((plane for name, plane in sorted(planes.items()) if name.startswith("/device:")), None)
    if device is not None:
        lines = list(device.lines)
        named = [line for line in lines if line.name == "XLA Ops"] or [line for line in lines if "Stream" in line.name]
        return [line.events for line in named]
    host = planes.get("/host:CPU")
    lines = [] if host is None else [line.events for line in host.lines if line.name.startswith("tf_XLA")]
    return [[event for event in events if _HLO.fullmatch(event.name)] for events in lines]
