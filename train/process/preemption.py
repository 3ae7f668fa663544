"""Signals as a polite request: finish the step, save, leave.

The scheduler that takes a machine away sends SIGTERM first; a person presses Ctrl-C (SIGINT); a terminal that is closed
and an ssh connection that breaks send SIGHUP; batch systems warn of the end of the time with SIGUSR1, SIGUSR2 (`sbatch
--signal`, `qsub -notify`) or SIGXCPU. Each sets a flag that the loop reads between steps. A second Ctrl-C interrupts at
once, and so does any of them while there is nothing to save. SIGQUIT is left alone: it ends a process without a save.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again and it continues

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
STOPS = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)
Handler = Callable[[int, FrameType | None], None]


class Stopped(KeyboardInterrupt):
    """A signal that asks a process to end, by its name."""


@contextlib.contextmanager
def handled(numbers: Iterable[signal.Signals], handler: Handler) -> Iterator[None]:
    """Handles signals within it; one that is ignored stays so, as SIGHUP does under nohup.

    But not SIGINT, which a shell's script has its background jobs ignore: whoever sends it by hand means it. In a
    thread other than the main one signals cannot be handled, and none is.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.getsignal(number) for number in numbers}
        ignored = {number for number, before in previous.items() if before == signal.SIG_IGN} - {signal.SIGINT}
        previous = {number: before for number, before in previous.items() if number not in ignored}
    for number in previous:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            if before is not None:  # a handler that Python did not set, and cannot put back
                signal.signal(number, before)


@contextlib.contextmanager
def ends_politely() -> Iterator[None]:
    """Within it a signal raises `Stopped`, so that what was begun is put away; a second one kills."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(signal.Signals(number).name)

    with handled((number for number in STOPS if number != signal.SIGINT), stop):  # that one raises already
        yield


class StopRequest:
    """A context manager that watches for the signals of `STOPS`.

    Attributes:
      requested: the name of the signal that came, None while none has.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._at_once = False
        self._handled = contextlib.ExitStack()

    def __enter__(self) -> "StopRequest":
        """Starts to watch, as `handled` does."""
        self._handled.enter_context(handled(STOPS, self._note))
        return self

    def __exit__(self, *exception: object) -> None:
        """Puts the handlers back that were there before."""
        self._handled.close()

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
