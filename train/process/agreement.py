"""All processes of a run stop after the same step.

A signal may reach one process or all, at different steps. The process that gets it tells the others through the watch.
Then a thread in each holds its main thread at the next step boundary and writes down the last boundary that it passed.
The step after the largest of these is the last for all: a process may be in it already, and none is beyond it.

Until a signal comes, a step costs an uncontended lock: no collective and no message. A reduction of flags beside every
step would be as exact, but would cost one; jax's own sync point needs jax's own handler of SIGTERM, for that alone.
"""

import sys
import threading

from train.process import hosts
from train.process.stop import Stop


class StopAgreement:
    """The agreement over one session's stop; a single process stops when its own `Stop` is requested."""

    def __init__(self, stop: Stop, group: hosts.Group | None) -> None:
        """Args: the request of this process; the processes, None for one that is alone."""
        self._stop, self._group = stop, group
        self._agreed: str | None = None
        self._told = False
        self._boundary = threading.Lock()
        self._step, self._last = 0, sys.maxsize

    @property
    def reason(self) -> str | None:
        """Why all stop; None before they have agreed."""
        return self._stop.requested if self._group is None else self._agreed

    def start(self, step: int) -> None:
        """Begins at a step."""
        self._step = step
        if self._group is not None:
            self._group.watch.when_stopping(self._agree)

    def reached(self, step: int) -> bool:
        """Whether to stop after a step; call it at every step boundary, before the next step is dispatched."""
        if self._group is None:
            return self._stop.requested is not None
        if self._stop.requested is not None and not self._told:
            self._told = True
            self._group.watch.tell("stop", f"{self._stop.requested} in process {self._group.index}")
        with self._boundary:
            self._step = step
            return step >= self._last

    def _agree(self, reason: str) -> None:
        assert self._group is not None
        store = self._group.store
        with self._boundary:  # the main thread does not begin another step
            store.put(f"cairn/stop/{self._group.index}", str(self._step))
            passed = [int(store.wait(f"cairn/stop/{number}")) for number in range(self._group.count)]
            self._last = max(passed) + 1
            self._agreed = reason
