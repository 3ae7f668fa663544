"""SIGTERM and SIGINT as a polite request: finish the step, save, leave.

The scheduler that takes a machine away sends SIGTERM first; a person presses Ctrl-C. Either sets a flag that the loop
reads between steps. A second Ctrl-C interrupts at once, and so does either signal while there is nothing to save.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again and it continues


class StopRequest:
    """A context manager that watches for the two signals.

    Attributes:
      requested: the name of the signal that came, None while none has.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._previous: dict[int, object] = {}
        self._at_once = False

    def __enter__(self) -> "StopRequest":
        """Starts to watch; in a thread other than the main one signals cannot be watched and none is."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        """Puts the handlers back that were there before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it, a signal raises KeyboardInterrupt besides being noted: for long work that can be cut anywhere."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.requested is not None and number == signal.SIGINT
        self.requested = signal.Signals(number).name
        if again or self._at_once:
            raise KeyboardInterrupt
