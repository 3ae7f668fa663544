"""All processes of a run stop after the same step.

A signal may reach one process or all, at different steps. The process that gets it tells the others through the watch.
Then a thread in each holds its main thread at the next step boundary and writes down the last boundary that it passed.
The step after the largest of these is the last for all: a process may be in it already, and none is beyond it.

Until a signal comes, a step costs an uncontended lock: no collective and no message. A reduction of flags beside every
step would be as exact, but would cost one; jax's own sync point needs jax's own handler of SIGTERM, for that alone.
"""

import threading

from train.process import hosts
from train.process.stop import Stop


class StopAgreement:
    """The agreement over one session's stop; a single process stops when its own `Stop` is requested.

    Attributes:
      reason: why all stop; None before they have agreed.
    """

    def __init__(self, stop: Stop) -> None:
        """Args: the request of this process."""
        self._stop, self._watch = stop, hosts.watch()
        self.reason: str | None = None
        self._told = False
        self._boundary = threading.Lock()
        self._step, self._last = 0, None if self._watch is None else 1 << 62

    def start(self, step: int) -> None:
        """Begins at a step."""
        self._step = step
        if self._watch is not None:
            self._watch.when_stopping(self._agree)

    def reached(self, step: int) -> bool:
        """Whether to stop after a step; call it at every step boundary, before the next step is dispatched."""
        if self._watch is None:
            self.reason = self._stop.requested
            return self.reason is not None
        if self._stop.requested is not None and not self._told:
            self._told = True
            self._watch.tell("stop", f"{self._stop.requested} in process {hosts.index()}")
        with self._boundary:
            self._step = step
            assert self._last is not None
            return step >= self._last

    def end(self) -> str | None:
        """The reason of the stop when the steps are over, in the words of the writer; None if none was agreed on."""
        return hosts.from_writer(lambda: self.reason)

    def _agree(self, reason: str) -> None:
        store = hosts.store()
        with self._boundary:  # the main thread does not begin another step
            store.put(f"cairn/stop/{hosts.index()}", str(self._step))
            passed = [int(store.wait(f"cairn/stop/{number}")) for number in range(hosts.count())]
            self._last = max(passed) + 1
            self.reason = reason
