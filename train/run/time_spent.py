"""The wall-clock time of a run by activity, restarts included: RUN/time_spent.jsonl.

A line holds the seconds of one session so far, by activity; the last line of each session counts. The file is not
rewound when a run resumes: the steps that are done again, and the time in which the run stood still, are part of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from train.files.files import LineFile
from train.files.paths import literal_path
from train.run.metrics import PathLike, read_lines

FILE = "time_spent.jsonl"
# Activities and their names for people, in the order of a report. The time of "steps" is the rest of a session.
ACTIVITIES = {
    "steps": "training steps",
    "waiting": "waiting for batches",
    "dispatch": "starting steps while the devices wait",
    "first_step": "first step, with its compilation",
    "preparing": "reading text, restoring or drawing the state",
    "rollout": "rollouts",
    "reward": "rewards",
    "reference": "log-probabilities of a reference or a teacher",
    "preparation": "completing batches, apart from that",
    "evaluation": "evaluations",
    "saving": "checkpoints",
    "other": "samples, statistics and other hooks",
}

# The parts of the preparation of batches, which lines of earlier versions lack; with the steps they give the result.
OF_PREPARATION = ("rollout", "reward", "reference", "preparation")
OF_STEPS = ("steps", *OF_PREPARATION)


class TimeSpent:
    """Measures a session; a context manager. Writes nothing if `folder` is None."""

    def __init__(self, folder: pathlib.Path | None, session: int, began: float) -> None:
        """Args: the run folder, the number of the session, and its begin on the monotonic clock."""
        self._file = None if folder is None else LineFile(folder / FILE)
        self._session, self._began = session, began
        self._spent = dict.fromkeys(ACTIVITIES, 0.0)
        self._first = 0
        self._inside = 0.0  # spent on activities within the one that is under way

    def begin_steps(self, step: int) -> None:
        """Ends the preparation of the session, which continues from `step`."""
        self._first = step
        self._spent["preparing"] = time.monotonic() - self._began

    @contextlib.contextmanager
    def on(self, activity: str) -> Iterator[None]:
        """The time inside is spent on an activity, apart from that on another one within it."""
        began, before, self._inside = time.monotonic(), self._inside, 0.0
        yield
        seconds = time.monotonic() - began
        self._spent[activity] += seconds - self._inside
        self._inside = before + seconds

    def write(self, step: int, *, waiting: float, dispatch: float, first_step: float) -> None:
        """Writes a line after a step, with the totals that the clock keeps: in seconds."""
        if self._file is None:
            return
        total = time.monotonic() - self._began
        spent = self._spent | {"waiting": waiting, "dispatch": dispatch, "first_step": first_step}
        spent["steps"] = max(0.0, total - sum(spent.values()) + spent["steps"])
        head = {"session": self._session, "first": self._first, "step": step, "time": time.time(), "seconds": total}
        self._file.append((json.dumps(head | spent) + "\n").encode())

    def __enter__(self) -> TimeSpent:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goodput:
    """The time of a run from its first start to its last line, in seconds.

    Attributes:
      activities: by name, over all sessions; those of steps leave out the steps that were done again.
      repeated: steps that a session did after the checkpoint from which the next one continued.
      stopped: between the last line of a session and the start of the next one.
    """

    activities: dict[str, float]
    repeated: float
    stopped: float

    @property
    def total(self) -> float:
        """All of the time."""
        return sum(self.activities.values()) + self.repeated + self.stopped

    @property
    def share(self) -> float:
        """The share of the time in which steps were computed that are part of the result."""
        return sum(self.activities[name] for name in OF_STEPS) / self.total if self.total else 0.0


def read_time_spent(run_folder: PathLike) -> list[dict[str, Any]]:
    """The last line of every session, in order; empty if there is none. Raises UserError for a damaged line."""
    lines = read_lines(literal_path(run_folder) / FILE)
    known = {"session", "first", "time", "seconds", *ACTIVITIES} - {*OF_PREPARATION}
    none = dict.fromkeys(OF_PREPARATION, 0.0)
    return list({line["session"]: none | line for line in lines if known <= line.keys()}.values())


def goodput(sessions: Sequence[dict[str, Any]]) -> Goodput | None:
    """The time of a run from the lines of `read_time_spent`; None without any."""
    if not sessions:
        return None
    activities = {name: sum(session[name] for session in sessions) for name in ACTIVITIES}
    repeated = stopped = 0.0
    for session, following in itertools.pairwise(sessions):
        done, again = session["step"] - session["first"], session["step"] - following["first"]
        if done > 0 and again > 0:
            for name in OF_STEPS:
                lost = session[name] * min(1.0, again / done)
                activities[name] -= lost
                repeated += lost
        stopped += max(0.0, following["time"] - following["seconds"] - session["time"])
    return Goodput(activities=activities, repeated=repeated, stopped=stopped)
