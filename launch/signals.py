"""Signals as a polite request: finish the step, save, leave.

The scheduler that takes a machine away sends SIGTERM first; a person presses Ctrl-C (SIGINT); a terminal that is closed
and an ssh connection that breaks send SIGHUP; batch systems warn of the end of the time with SIGUSR1, SIGUSR2 (`sbatch
--signal`, `qsub -notify`) or SIGXCPU. Each sets a flag that the loop reads between steps. A second Ctrl-C interrupts at
once, and so does any of them while there is nothing to save. SIGQUIT is left alone: it ends a process without a save.
"""

import _thread
import contextlib
import importlib.machinery
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

from train.process.stop import STOPS, Stop

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again and it continues

Handler = Callable[[int, FrameType | None], None]


class Stopped(KeyboardInterrupt):
    """A signal that asks a process to end, by its name."""


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C."""


def _interruption(number: int) -> KeyboardInterrupt:
    """What a handler raises for a signal."""
    name = signal.Signals(number).name
    return _Interrupted(name) if number == signal.SIGINT else Stopped(name)


@contextlib.contextmanager
def handled(numbers: Iterable[signal.Signals], handler: Handler) -> Iterator[None]:
    """Handles signals within it; one that is ignored stays so, as SIGHUP does under nohup.

    But not SIGINT, which a shell's script has its background jobs ignore: whoever sends it by hand means it. In a
    thread other than the main one signals cannot be handled, and none is.

    What the handler raises is lost where Python has nobody to give it to, in a callback of the garbage collector or a
    `__del__`; the signal is sent again then.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.getsignal(number) for number in numbers}
        ignored = {number for number, before in previous.items() if before == signal.SIG_IGN} - {signal.SIGINT}
        previous = {number: before for number, before in previous.items() if number not in ignored}
    hook = sys.unraisablehook

    def not_lost(unraisable: "sys.UnraisableHookArgs") -> None:
        if not isinstance(unraisable.exc_value, Stopped | _Interrupted):
            hook(unraisable)
            return
        number = signal.Signals[str(unraisable.exc_value)]
        if number in previous:
            signal.signal(number, handler)
        _send_again(number)

    not_lost.before = hook  # type: ignore[attr-defined]  # for those who look through the chain of hooks
    for number in previous:
        signal.signal(number, handler)
    if previous:
        sys.unraisablehook = not_lost
    try:
        yield
    finally:
        if sys.unraisablehook is not_lost:  # else somebody has put another one before it, which stays
            sys.unraisablehook = hook
        for number, before in previous.items():
            if before is not None:  # a handler that Python did not set, and cannot put back
                signal.signal(number, before)


@contextlib.contextmanager
def ends_politely() -> Iterator[None]:
    """Within it a signal raises `Stopped`, so that what was begun is put away; a second one kills.

    Ctrl-C raises KeyboardInterrupt, where it is not ignored.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if _comes_too_early(number, frame):
            return
        signal.signal(number, signal.SIG_DFL)
        raise _interruption(number)

    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    with handled((number for number in STOPS if not (ignored and number == signal.SIGINT)), stop):
        yield


def _comes_too_early(number: int, frame: FrameType | None) -> bool:
    """Whether a signal comes while a compiled module is loaded; the signal is sent again a little later then.

    An exception in the midst of that is more than some libraries of C++ can take: the process would crash.
    """
    while frame is not None:
        loading = isinstance(frame.f_locals.get("self"), importlib.machinery.ExtensionFileLoader)
        if loading or (frame.f_code.co_name == "not_lost" and frame.f_code.co_filename == __file__):
            _send_again(number)
            return True
        frame = frame.f_back
    return False


def _send_again(number: int) -> None:
    def wait_and_send() -> None:
        time.sleep(0.02)
        signal.pthread_kill(main, number)

    main = threading.main_thread().ident or 0
    _thread.start_new_thread(wait_and_send, ())  # a Thread's start would wait for it, perhaps as long as it sleeps


class StopRequest(Stop):
    """A context manager that watches for the signals of `STOPS`.

    Attributes:
      requested: the name of the signal that came, None while none has.
    """

    def __init__(self) -> None:
        super().__init__()
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
        if self.requested is not None:  # by a signal that came before
            raise _interruption(signal.Signals[self.requested])
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        raises = self._at_once or (self.requested is not None and number == signal.SIGINT)
        if raises and _comes_too_early(number, frame):
            return
        self.requested = signal.Signals(number).name
        if raises:
            raise _interruption(number)
