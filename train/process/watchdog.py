"""The watchdog ends a run that stands still: a lost collective, a file system that hangs, a hook that waits for ever.

Progress is a step that ended on the devices, a batch of an evaluation, a hook that returned, a checkpoint written: the
loop tells of each (`alive`). Without any for `seconds` a thread writes the stacks of all threads to standard error and
to RUN/logs/stacks-PROCESS.txt, in every process of the run, and ends the process with EXIT_STALLED. The same command
continues the run. Compiling, restoring and writing a checkpoint are single actions that may take long: while
the loop is `doing` one that is `patient`, the time allowed is at least PATIENT_SECONDS.
"""

import contextlib
import datetime
import faulthandler
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

from train.process import hosts

EXIT_STALLED = os.EX_SOFTWARE  # 70
STALL_SECONDS = 1800.0
PATIENT_SECONDS = 7200.0
_DUMP_SECONDS = 10.0  # the longest time that writing stacks and telling others may take: they may hang as well


class Watchdog:
    """See the module; a context manager that watches while it is open."""

    def __init__(
        self,
        seconds: float,
        stacks: pathlib.Path,
        end: Callable[[str], None],
        say: Callable[[str], None] | None = None,
        ask_others: Callable[[], None] | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
          seconds: the time without progress after which the run ends; 0 for any time.
          stacks: the file for the stacks.
          end: called with the reason, and ends the process.
          say: writes the reason for a person, as into status.json.
          ask_others: makes the other processes write their stacks.
        """
        self._seconds, self._stacks, self._end, self._say, self._ask_others = seconds, stacks, end, say, ask_others
        self._patient, self._last, self._activity = 0, time.monotonic(), "the first step"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        """Starts to watch."""
        self.alive()
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops."""
        self._closed.set()

    def alive(self) -> None:
        """There is progress."""
        self._last = time.monotonic()

    @contextlib.contextmanager
    def doing(self, activity: str, *, patient: bool = False) -> Iterator[None]:
        """Names the action inside, for the message; its beginning and its end are progress."""
        before, self._activity = self._activity, activity
        self._patient += patient
        self.alive()
        try:
            yield
        finally:
            self._activity = before
            self._patient -= patient
            self.alive()

    def dump(self) -> None:
        """Writes the stacks of all threads to standard error and to the file; returns after _DUMP_SECONDS at most."""
        faulthandler.dump_traceback(file=2, all_threads=True)
        _bounded(self._write_stacks)

    def _allowed(self) -> float:
        return max(self._seconds, PATIENT_SECONDS) if self._patient else self._seconds

    def _watch(self) -> None:
        while not self._closed.wait(max(0.01, min(self._left(), self._seconds / 2, 5.0))):
            if self._left() <= 0:
                self._act()
                return

    def _left(self) -> float:
        return self._last + self._allowed() - time.monotonic()

    def _act(self) -> None:
        idle = time.monotonic() - self._last
        reason = (
            f"no progress for {idle:.0f} s, in {self._activity}; the stacks of all threads are in {self._stacks} and "
            "above; the same command continues the run"
        )
        os.write(2, f"error: {reason}\n".encode(errors="backslashreplace"))
        if self._ask_others is not None:
            _bounded(self._ask_others)
        self.dump()
        if self._say is not None:
            say = self._say
            _bounded(lambda: say(reason))
        self._end(reason)

    def _write_stacks(self) -> None:
        self._stacks.parent.mkdir(exist_ok=True)
        with open(self._stacks, "a", encoding="utf-8") as file:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            file.write(f"{now}, process {os.getpid()}, no progress in {self._activity}\n")
            file.flush()
            faulthandler.dump_traceback(file=file, all_threads=True)
            file.write("\n")


def end_stalled(reason: str) -> None:
    """Ends this process with EXIT_STALLED, and tells the others why."""
    _bounded(lambda: hosts.leave(EXIT_STALLED, reason))
    os._exit(EXIT_STALLED)  # the process is alone, or the others cannot be told


def _bounded(action: Callable[[], object]) -> None:
    """Calls a function that may fail or hang, and waits for it _DUMP_SECONDS at most."""

    def attempt() -> None:
        with contextlib.suppress(Exception):
            action()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(_DUMP_SECONDS)
